"""What a run is measured by on the way: held-out loss and metrics, samples of what the model writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model.generate import Sampling, generate
from ..model.gpt import GPT
from ..tokenizer.tokenizer import Tokenizer
from .loader import Batch
from .loss import Objective


@torch.no_grad()
def held_out(
    objective: Objective, batches: Iterable[Batch], token_n_bytes: Tensor, check_stop: Callable[[], None]
) -> dict[str, float]:
    """Returns `val_loss`, the mean loss of what held-out batches have to learn, and the objective's own metrics.

    `token_n_bytes` (V,) is the UTF-8 bytes that each token stands for; `check_stop` is called before each batch and
    may raise.
    """
    loss, n_learned, n_bytes = 0.0, 0, 0
    objective.metrics.take()
    for batch in batches:
        check_stop()
        loss += objective.held_out_loss(batch).item()
        n_learned += batch.n_learned
        n_bytes += int(token_n_bytes[batch.learned()].sum())
    return {"val_loss": loss / n_learned} | objective.held_out_metrics(loss, n_bytes, objective.metrics.take())


def continue_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: list[int],
    n_tokens: int,
    seed: tuple[int, int],
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Returns `{"prompt", "text"}`: a text of up to `n_tokens` tokens that continues `prompt`, drawn with `seed`.

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
