"""Text out of a model: one token at a time, sampled from its logits."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import Config, setting
from .gpt import GPT, KeyValueCache

SMALLEST_TEMPERATURE = torch.finfo(torch.float32).tiny
"""By less, float32 logits cannot be divided: 0 / 0 is no number."""


@dataclass(frozen=True, kw_only=True)
class Sampling(Config):
    """How a token is drawn from the probabilities of all."""

    temperature: float = setting(0.8, at_least=0)
    """Logits are divided by it: below 1 likely tokens become more so. 0 is greedy: always the argmax. So is what is too
    small for float32."""
    top_k: int | None = setting(50, at_least=1)
    """Draw among so many of the most probable tokens only; empty draws among all."""
    top_p: float = setting(1.0, at_least=0, at_most=1)
    """Draw among the fewest most probable tokens that together have this probability (Holtzman et al. 2019)."""
    seed: int = setting(0, at_least=-(2**63), at_most=2**63 - 1)
    """The same seed gives the same tokens."""


@torch.inference_mode()
def generate(
    model: GPT, tokens: list[int], *, max_new_tokens: int, sampling: Sampling = Sampling(), stop: Collection[int] = ()
) -> Iterator[int]:
    """Yields up to `max_new_tokens` tokens that continue `tokens`, and ends after yielding one of `stop`.

    Of a prompt longer than the context its first token and its end are read. When the context is full, as much as fills
    half of it is read again in the same way, and generation goes on from there: a token always sees at least half a
    context. Raises ValueError for an empty prompt. The model must be in evaluation mode.
    """
    if not tokens:
        raise ValueError("tokens is empty; give at least one token to go on from, such as the document token")
    context_length = model.config.context_length
    device = model.token_embedding.weight.device
    generator = torch.Generator().manual_seed(sampling.seed)
    history = list(tokens)
    cache, unread = KeyValueCache(model), shortened(history, context_length)
    for _ in range(max_new_tokens):
        if cache.n_tokens + len(unread) > context_length:
            cache, unread = KeyValueCache(model), shortened(history, max(1, context_length // 2))
        features = model.features(torch.tensor([unread], device=device), cache)  # (1, T, C)
        logits = model.logits(features[0, -1])  # (V,): the head costs as much for every other token, and is not needed
        token = choose(logits.float().cpu(), sampling, generator)
        yield token
        if token in stop:
            return
        history.append(token)
        unread = [token]


def shortened(tokens: Sequence[int], length: int) -> list[int]:
    """Returns the first token and the last `length` - 1 ones; all when there are no more than `length`.

    The first is the document token. Models have never seen a text without it, and heads park attention on the first
    token that they do not use (Xiao et al. 2023, "Efficient streaming language models with attention sinks").
    """
    return [*tokens[:1], *tokens[max(1, len(tokens) - length + 1) :]]


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Returns a token drawn from softmax(logits / temperature) among the most probable; `logits` is (V,) float32."""
    if sampling.temperature < SMALLEST_TEMPERATURE:
        return int(logits.argmax())
    largest, tokens = logits.topk(min(sampling.top_k or len(logits), len(logits)))  # (k,) both, falling
    probabilities = torch.softmax((largest - largest[0]) / sampling.temperature, dim=-1)  # (k,)
    before = probabilities.cumsum(dim=-1) - probabilities  # what the more probable ones have together
    n_kept = max(1, int((before < sampling.top_p).sum()))
    return int(tokens[torch.multinomial(probabilities[:n_kept], 1, generator=generator)])


BATCH_SIZE = 64
"""Prompts continued at once by `generate_batch`; fewer where their caches would not fit into `CACHE_NUMBERS`."""
CACHE_NUMBERS = 2**30
"""Numbers in all caches of a batch at most: 4 GB in float32."""


def generate_batch(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),
    stop: Collection[int] = (),
) -> list[list[int]]:
    """Returns what `generate` yields for each prompt, in their order; the seed of prompt i is `sampling.seed` + i.

    Prompts of like length go through the model together. Raises ValueError for an empty one.
    """
    if not all(prompts):
        raise ValueError("a prompt is empty; give at least one token to go on from, such as the document token")
    cut = [shortened(prompt, model.config.context_length) for prompt in prompts]
    drafts = [
        _Draft(list(tokens), len(tokens) + max_new_tokens, torch.Generator().manual_seed(sampling.seed + index))
        for index, tokens in enumerate(cut)
    ]
    ordered = sorted(drafts, key=lambda draft: len(draft.tokens))
    config = model.config
    cache_numbers = 2 * config.n_layers * config.n_kv_heads * config.head_dim * config.context_length
    size = max(1, min(BATCH_SIZE, CACHE_NUMBERS // cache_numbers))
    for start in range(0, len(ordered), size):
        _extend(model, ordered[start : start + size], sampling, frozenset(stop))
    return [draft.tokens[len(tokens) :] for draft, tokens in zip(drafts, cut, strict=True)]


@dataclass
class _Draft:
    """A prompt with what has been added to it, how long it may become, and where its random numbers come from."""

    tokens: list[int]
    limit: int
    generator: torch.Generator
    is_stopped: bool = False

    @property
    def is_done(self) -> bool:
        """Whether nothing more is added."""
        return self.is_stopped or len(self.tokens) == self.limit


@torch.inference_mode()
def _extend(model: GPT, drafts: list[_Draft], sampling: Sampling, stop: Collection[int]) -> None:
    """Adds to each draft, all in step: they are read to one position, where the longer prompts know what comes next.

    So no position needs a mask or padding. Rows that are done are read on, as zeros, until they are half of all.
    """
    device, context_length = model.token_embedding.weight.device, model.config.context_length
    cache, n_read = KeyValueCache(model, len(drafts)), 0
    end = min(len(draft.tokens) for draft in drafts)
    while not all(draft.is_done for draft in drafts):
        if cache.n_tokens + end - n_read > context_length:  # as `generate` does: half is read again
            cache, n_read = KeyValueCache(model, len(drafts)), end - max(1, context_length // 2)
        rows = [[*draft.tokens[n_read:end], *[0] * (end - max(n_read, len(draft.tokens)))] for draft in drafts]
        if cache.n_tokens == 0:
            rows = [[draft.tokens[0], *row[1:]] for draft, row in zip(drafts, rows, strict=True)]
        logits = model(torch.tensor(rows, device=device), cache)[:, -1].float().cpu()  # (B, V)
        for draft, row in zip(drafts, logits, strict=True):
            if not draft.is_done and len(draft.tokens) == end:
                draft.tokens.append(choose(row, sampling, draft.generator))
                draft.is_stopped = draft.tokens[-1] in stop
        n_read, end = end, end + 1
        kept = [row for row, draft in enumerate(drafts) if not draft.is_done]
        if 0 < len(kept) <= len(drafts) // 2:
            drafts = [drafts[row] for row in kept]
            cache.keys, cache.values = cache.keys[:, kept], cache.values[:, kept]  # (L, B, G, S, D)
