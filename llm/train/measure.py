"""What a run is measured by on the way: loss and bits per byte of held-out text, samples of what the model writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..model.generate import Sampling, generate
from ..model.gpt import GPT
from ..tokenizer import Tokenizer
from .loader import Batch
from .loss import Objective


class Measure(Protocol):
    """Measures a model on held-out batches: `val_loss`, which should fall, and what else tells how good it is.

    `token_n_bytes` (V,) is the UTF-8 bytes that each token stands for; `check_stop` is called before each batch and
    may raise.
    """

    def __call__(
        self,
        objective: Objective,
        batches: Iterable[Batch],
        token_n_bytes: Tensor,
        check_stop: Callable[[], None],
    ) -> dict[str, float]: ...


@torch.no_grad()
def held_out(
    objective: Objective, batches: Iterable[Batch], token_n_bytes: Tensor, check_stop: Callable[[], None]
) -> dict[str, float]:
    """`val_loss` in nats per supervised token, `val_bpb` in bits per UTF-8 byte of the text that these stand for.

    Special tokens stand for no byte, but what they cost counts.
    """
    total, n_tokens, n_bytes = 0.0, 0, 0
    for batch in batches:
        check_stop()
        _, targets = batch.learned()
        total += objective(*batch.arguments()).item()
        n_tokens += len(targets)
        n_bytes += int(token_n_bytes[targets].sum())
    return {"val_loss": total / n_tokens, "val_bpb": total / math.log(2) / max(1, n_bytes)}


def sample(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: list[int],
    n_tokens: int,
    seed: tuple[int, int],
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """`{"prompt", "text"}`: a text of up to `n_tokens` tokens that goes on from `prompt`, drawn with `seed`.

    It is cut short when `should_stop` says so.
    """
    sampling = Sampling(seed=int(np.random.SeedSequence(seed).generate_state(1)[0]))
    stop = (tokenizer.end_token, tokenizer.document_token)
    tokens = []
    for token in generate(model, prompt, max_new_tokens=n_tokens, sampling=sampling, stop=stop):
        tokens.append(token)
        if should_stop():
            break
    return {"prompt": tokenizer.decode(prompt), "text": tokenizer.decode(tokens)}
