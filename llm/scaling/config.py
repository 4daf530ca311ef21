"""Settings of a scaling-law sweep: which runs are made, and how the fit's intervals are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Config, setting


@dataclass(frozen=True, kw_only=True)
class SweepShape(Config):
    """The shape of one model of the sweep; everything else of it is that of the recipe's pretrain section."""

    d_model: int = setting(at_least=8)
    """Width: numbers that stand for one token between blocks."""
    n_layers: int = setting(at_least=1)
    """Number of transformer blocks."""


@dataclass(frozen=True, kw_only=True)
class ScalingConfig(Config):
    """A sweep of pretraining runs, every shape at every budget and seed, and the fits over their held-out losses.

    Heads, learning rate, batch, initial weights and warmup of each run follow from its size and length, whatever the
    recipe's pretrain section says of them (llm/train/resolve.py).
    """

    budgets: tuple[float, ...]
    """Training FLOPs of a run (6 N + 12 L d T a token), rising; each should be 2 to 4 times the one before."""
    shapes: tuple[SweepShape, ...]
    """Models to train at each budget, about evenly spaced in the logarithm of their size."""
    seeds: tuple[int, ...] = (0,)
    """Each shape is trained with each of these at each budget; more than one shows the noise between runs."""
    min_tokens_per_param: float = setting(1.5, at_least=0.0)
    """Runs with fewer training tokens for each parameter (of matrix products) are left out: far from the optimum, the
    loss over the logarithm of the size is no parabola."""
    max_tokens_per_param: float = setting(150.0, at_least=0.0)
    """Runs with more are left out too."""
    min_steps: int = setting(40, at_least=1)
    """Runs shorter than this, in optimizer steps, are left out: they have not got past the warmup."""
    max_epochs: float | None = setting(4.0, at_least=0.01)
    """Runs that would read the corpus more often are left out; up to 4 epochs are nearly as good as new text
    (Muennighoff et al. 2023). Empty: all are made."""
    n_bootstrap: int = setting(400, at_least=2)
    """Repetitions of the fits, from which their intervals come."""
    confidence: float = setting(0.9, at_least=0.01, at_most=0.99)
    """Share of repetitions that an interval holds."""
    seed: int = setting(0, at_least=0)
    """Seed of these repetitions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("budgets", "shapes", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; a sweep needs at least one")
        if any(later <= earlier for earlier, later in zip(self.budgets, self.budgets[1:], strict=False)):
            raise ValueError(f"budgets are {self.budgets}; each must be larger than the one before")
        if self.budgets[0] <= 0:
            raise ValueError(f"budgets begin with {self.budgets[0]:g}; they must be larger than 0")
        for name in ("shapes", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} holds the same value twice: {values}")
