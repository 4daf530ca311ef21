"""Where a run stands: what its checkpoints keep besides tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Progress:
    """Where a run stands; kept in its checkpoints."""

    step: int = 0
    """Steps done, the skipped ones too."""
    n_tokens: int = 0
    """Supervised tokens learned from."""
    loss: float | None = None
    """Loss of the last step that was learned from, in nats per supervised token."""
    val: dict[str, float] = field(default_factory=dict)
    """The last measurement on held-out data: `val_loss`, and what else the method measures."""
    best: dict[str, Any] = field(default_factory=dict)
    """`step` and figures of the measurement with the lowest held-out loss."""
    measured_step: int = -1
    """The step of the last measurement."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """`{"step", "prompt", "text"}` of each sample so far."""
    recent: list[list[float]] = field(default_factory=list)
    """Loss and gradient norm of the last steps that were learned from."""
    skipped: list[dict[str, Any]] = field(default_factory=list)
    """`{"step", "batch", "why"}` of each step that was not."""
    n_skipped_in_a_row: int = 0
    good_step: int = 0
    """The last measured step that no skipped one came right before: where to roll back to."""
    n_rollbacks: int = 0
    n_rollbacks_in_a_row: int = 0
    """Those to the same step."""
    n_batches_ahead: int = 0
    """Step s learns from batch s + n_batches_ahead: a roll-back passes over batches."""

    def figures(self) -> dict[str, float]:
        """The numbers of a finished run that depend on nothing but its config and inputs."""
        values = {
            "n_steps": self.step,
            "final_loss": self.loss,
            **self.val,
            "best_step": self.best.get("step"),
            "best_val_loss": self.best.get("val_loss"),
            "n_skipped": len(self.skipped) or None,
            "n_rollbacks": self.n_rollbacks or None,
        }
        return {name: value for name, value in values.items() if value is not None}


def require_same_identity(found: dict[str, Any], wanted: dict[str, Any], checkpoint: Path) -> None:
    """Raises ValueError that names what differs between the run of a checkpoint and this one."""
    differing = [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
    if differing:
        changes = "; ".join(f"{name}: {found.get(name)} then, {wanted.get(name)} now" for name in differing)
        raise ValueError(f"{checkpoint} belongs to another run ({changes}); use another work directory or remove it")
