"""Text out of a model: one token at a time, sampled from its logits."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from .gpt import GPT, KeyValueCache


@torch.inference_mode()
def generate(
    model: GPT,
    tokens: list[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    top_k: int | None = 50,
    stop: Collection[int] = (),
    seed: int = 0,
) -> Iterator[int]:
    """Yields up to `max_new_tokens` tokens that continue `tokens`, and ends after yielding one of `stop`.

    `temperature` 0 takes the likeliest token each time; `top_k` (None: all) samples among the k likeliest. The same
    seed gives the same tokens. A prompt longer than the context is cut at its start. When the context is full, its
    last half is read again and generation goes on from there, so a token always sees at least half a context.
    Raises ValueError for an empty prompt. The model must be in evaluation mode.
    """
    if not tokens:
        raise ValueError("tokens is empty; give at least one token to go on from, such as the document token")
    context_length = model.config.context_length
    device = model.token_embedding.weight.device
    generator = torch.Generator().manual_seed(seed)
    history = list(tokens)
    cache, unread = KeyValueCache(model), history[-context_length:]
    for _ in range(max_new_tokens):
        if cache.n_tokens + len(unread) > context_length:
            cache, unread = KeyValueCache(model), history[-max(1, context_length // 2) :]
        logits = model(torch.tensor([unread], device=device), cache)[0, -1]  # (V,)
        token = choose(logits.float().cpu(), temperature, top_k, generator)
        yield token
        if token in stop:
            return
        history.append(token)
        unread = [token]


def choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """A token drawn from softmax(logits / temperature) among the `top_k` largest; `logits` is (V,) float32."""
    if temperature == 0:
        return int(logits.argmax())
    largest, tokens = logits.topk(min(top_k or len(logits), len(logits)))  # (k,)
    probabilities = torch.softmax(largest / temperature, dim=-1)
    return int(tokens[torch.multinomial(probabilities, 1, generator=generator)])
