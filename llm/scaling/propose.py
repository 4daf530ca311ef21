"""What to train with a given number of FLOPs: the size and the tokens that a scaling law holds best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..model.size import flops_per_token, n_matmul_params, n_params
from ..train.config import ModelShape, PretrainConfig
from ..train.resolve import batch_tokens, resolve
from .parametric import Parametric

PUBLISHED = Parametric(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
"""The points of Hoffmann et al. 2022, fitted again by Besiroglu et al. 2024, who found their own fit not converged."""
GOOD_EPOCHS = 4
"""Epochs of a corpus that are nearly as good as new text (Muennighoff et al. 2023, section 6)."""
MAX_EXTRAPOLATION = 30.0
"""A law says little about budgets so many times larger than those it was fitted to: that of the CPU sweep was 3 % too
high for a budget 2.4 times larger."""

ASSUMED_MFU = 0.4
"""Share of the peak that is expected: what a plain GPT-2 of 124 M reaches (llm.c on H100, nanoGPT)."""

SIZES_PER_TENFOLD = 12
FAR = 30.0
"""Sizes are tried from so many times smaller to so many times larger than the best by formula."""
SMALLEST = 1e4
"""Parameters."""


@dataclass(frozen=True)
class Proposal:
    """A model and a length of training."""

    size: str
    """For `pretrain.model.size`."""
    config: PretrainConfig
    """Everything that follows from the size and the length."""
    n_params: int
    """All weights."""
    n_matmul_params: int
    """Those used in matrix products: what the law calls N."""
    n_tokens: int
    n_flops: float
    loss: float
    """What the law expects, nats per token."""


def propose(n_flops: float, law: Parametric, base: PretrainConfig, vocab_size: int, context_length: int) -> Proposal:
    """Returns the best of all sizes for `n_flops`, if there is new text enough.

    Sizes are those that `pretrain.model.size` can make for this vocabulary; architecture and head are the recipe's.
    Raises ValueError when the budget is too small for a single step of any.
    """
    proposals = candidates(n_flops, law, base, vocab_size, context_length)
    best = min(proposals, key=lambda item: item.loss, default=None)
    if best is None:
        raise ValueError(
            f"{n_flops:.3g} FLOPs do not suffice for a step of any model with {vocab_size:,} tokens of vocabulary"
        )
    return best


def largest_useful(n_flops: float, law: Parametric, best: Proposal, n_unique: int) -> float:
    """Returns the FLOPs that a corpus of `n_unique` tokens is good for: their best length is `GOOD_EPOCHS` epochs.

    `best` is the proposal for `n_flops`; the result is not more than `n_flops`. What goes beyond it, into more epochs
    or a larger model, is worth less and less.
    """
    share = GOOD_EPOCHS * n_unique / best.n_tokens
    return n_flops * min(1.0, share) ** (1 / law.d_exponent)


def candidates(
    n_flops: float, law: Parametric, base: PretrainConfig, vocab_size: int, context_length: int
) -> Iterator[Proposal]:
    """Yields a proposal for each size that exists near the law's optimum."""
    seen = set()
    for size in sizes(float(law.n_opt(n_flops))):
        shape = ModelShape(size=size, architecture=base.model.architecture, tied_head=base.model.tied_head)
        try:
            model = resolve(PretrainConfig(model=shape), vocab_size, context_length).model
        except ValueError:
            continue  # no shape of this vocabulary is near this size
        per_token = flops_per_token(model)
        batch = batch_tokens(n_flops / per_token, context_length)
        n_steps = int(n_flops / per_token / batch)
        if model in seen or n_steps < 1:
            continue
        seen.add(model)
        n, n_tokens = n_matmul_params(model), n_steps * batch
        config = PretrainConfig(model=shape, n_steps=n_steps, batch_tokens=batch)
        loss = float(law.loss(n, n_tokens))
        yield Proposal(size, config, n_params(model), n, n_tokens, float(n_tokens * per_token), loss)


def sizes(n_params: float) -> Iterable[str]:
    """Yields sizes around a number of parameters as `model.size` takes them, two digits, evenly spaced in log."""
    n_each_way = round(math.log10(FAR) * SIZES_PER_TENFOLD)
    values = [n_params * 10 ** (i / SIZES_PER_TENFOLD) for i in range(-n_each_way, n_each_way + 1)]
    return dict.fromkeys(shown_size(value) for value in values if value >= SMALLEST)


def shown_size(n: float) -> str:
    """Returns a number of parameters in two digits: 850k, 1.3m, 24b."""
    digits = float(f"{n:.2g}")
    for unit, factor in (("b", 1e9), ("m", 1e6), ("k", 1e3)):
        if digits >= factor:
            return f"{digits / factor:g}{unit}"
    return f"{digits / 1e3:g}k"


def fitted_law(fit: dict[str, Any], n_flops: float) -> Parametric:
    """Returns the parametric law of a `fit.json`; raises ValueError that says why it does not serve for `n_flops`."""
    values = fit["parametric"]
    doubts = [values["why_not"], *values.get("doubts", [])]
    if any(doubts):
        raise ValueError("; ".join(filter(None, doubts)))
    factor = n_flops / fit["budgets"][-1]
    if factor > MAX_EXTRAPOLATION:
        raise ValueError(
            f"its largest budget was {fit['budgets'][-1]:.2g} FLOPs, and {n_flops:.2g} are {factor:,.0f} times more"
        )
    return Parametric(**{name: values[name] for name in ("E", "A", "B", "alpha", "beta")})
