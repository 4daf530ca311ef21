"""Generation: time to the first token and per token after it, with and without the cache of keys and values.

    python -m benchmarks.generate

Weights are random. All methods give the greedy token and take turns, so that a busy machine slows all of them;
medians of CPU time of one thread. transformers with its cache stands beside as the peer.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from llm.model.generate import Sampling, generate
from llm.model.gpt import GPT, GPTConfig

N_ROUNDS = 5
CASES = (("demo", 128, 100, 20), ("gpt2-124m", 256, 24, 4), ("gpt2-124m", 512, 16, 3))
"""Preset, tokens of the prompt, tokens to make with a cache, and without."""


def main() -> None:
    """Prints one Markdown table."""
    torch.set_num_threads(1)
    print("| shape | prompt | method | ms to the first token | ms per token after it | tokens/s |")
    print("|---|---|---|---|---|---|")
    for name, n_prompt, n_cached, n_plain in CASES:
        for method, (first, rest) in measured(name, n_prompt, n_cached, n_plain).items():
            figures = f"{1e3 * first:.1f} | {1e3 * rest:.2f} | {1 / rest:.1f}"
            print(f"| {name} | {n_prompt} | {method} | {figures} |", flush=True)


def measured(name: str, n_prompt: int, n_cached: int, n_plain: int) -> dict[str, tuple[float, float]]:
    """For each method, CPU seconds to the first token and for each token after it."""
    torch.manual_seed(0)
    ours, theirs = models(name)
    prompt = torch.randint(ours.config.vocab_size, (n_prompt,)).tolist()
    methods: dict[str, Callable[[], Iterator[int]]] = {
        "with cache": lambda: cached(ours, prompt, n_cached),
        "without cache": lambda: plain(ours, prompt, n_plain),
        "transformers, with cache": lambda: transformers(theirs, prompt, n_cached),
    }
    rounds = [{method: seconds(run()) for method, run in methods.items()} for _ in range(N_ROUNDS)]
    return {
        method: (
            statistics.median(times[method][0] for times in rounds),
            statistics.median(statistics.median(times[method][1:]) for times in rounds),
        )
        for method in methods
    }


def models(name: str) -> tuple[GPT, GPT2LMHeadModel]:
    """Our model of a preset and transformers' model of the same shape."""
    config = GPTConfig.preset(name)
    shape = {"n_embd": config.d_model, "n_layer": config.n_layers, "n_head": config.n_heads}
    sizes = {"vocab_size": config.vocab_size, "n_positions": config.context_length}
    theirs = GPT2Config(**shape, **sizes, bos_token_id=0, eos_token_id=0)
    return GPT(config).eval(), GPT2LMHeadModel(theirs).eval()


def seconds(tokens: Iterator[int]) -> list[float]:
    """CPU seconds that each token took."""
    times = [time.process_time(), *(time.process_time() for _ in tokens)]
    return [after - before for before, after in itertools.pairwise(times)]


def cached(model: GPT, prompt: list[int], n: int) -> Iterator[int]:
    """Tokens as `chat` makes them."""
    return generate(model, prompt, max_new_tokens=n, sampling=Sampling(temperature=0))


@torch.inference_mode()
def plain(model: GPT, prompt: list[int], n: int) -> Iterator[int]:
    """The same, each from a pass over the whole text (but the head at its last token only)."""
    tokens = list(prompt)
    for _ in range(n):
        features = model.features(torch.tensor([tokens]))
        tokens.append(int(model.logits(features[0, -1]).argmax()))
        yield tokens[-1]


@torch.inference_mode()
def transformers(model: GPT2LMHeadModel, prompt: list[int], n: int) -> Iterator[int]:
    """The same with transformers' cache, without what `model.generate` adds to each step."""
    cache, unread = None, torch.tensor([prompt])
    for _ in range(n):
        output = model(unread, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, unread = output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)
        yield int(unread)


if __name__ == "__main__":
    main()
