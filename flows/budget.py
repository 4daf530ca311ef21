"""What to train in so many hours on a device, and what the corpus lacks for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches

from llm.files import read_json
from llm.model.shape import GPTConfig
from llm.scaling.fit import FIT_FILE
from llm.scaling.parametric import Parametric
from llm.scaling.propose import (
    ASSUMED_MFU,
    GOOD_EPOCHS,
    PUBLISHED,
    Proposal,
    fitted_law,
    largest_useful,
    propose,
)
from llm.train.resolve import resolve
from llm.train.throughput import PEAK_FLOPS, flops_per_second
from tasks.core.session import Session

from .recipe import Recipe

N_MEASUREMENTS = 2
"""Speed depends on the shape, and the best shape on the speed: measured, proposed, measured, proposed."""


@dataclass(frozen=True)
class Law:
    """A parametric law and where it is from."""

    fit: Parametric
    source: str
    """In words, for a person."""
    vocab_size: int | None = None
    """Vocabulary of the sweep that it was fitted to; None: published, for other corpora."""


def budget_lines(recipe: Recipe, session: Session, hours: float, device: str) -> list[str]:
    """A proposal in words: budget, law, size, tokens, what the corpus lacks, expected loss, the overrides for it.

    On a CPU the speed is measured, here and now; of a GPU a share of its peak is reckoned with. Raises ValueError for
    an unknown device and for hours that are too few.
    """
    if device != "cpu" and device not in gpus():
        near = "".join(f"; did you mean {name}?" for name in get_close_matches(device.lower(), gpus(), n=1))
        raise ValueError(f"device is {device!r}; allowed: cpu, {', '.join(gpus())}{near}")
    if hours <= 0:
        raise ValueError(f"hours is {hours:g}; it must be larger than 0")
    form = (recipe.tokenizer.vocab_size, recipe.shard.context_length)
    model = resolve(recipe.pretrain, *form).model
    for _ in range(N_MEASUREMENTS if device == "cpu" else 1):
        speed, how = speed_of(device, model, recipe)
        n_flops = hours * 3600 * speed
        law = law_for(session, n_flops)
        best = propose(n_flops, law.fit, recipe.pretrain, *form)
        model = resolve(best.config, *form).model
    n_corpus = n_corpus_tokens(session)
    useful = n_flops if n_corpus is None else largest_useful(n_flops, law.fit, best, n_corpus)
    found = best if useful == n_flops else propose(useful, law.fit, recipe.pretrain, *form)
    return [
        f"{hours:g} h on {device}: {n_flops:.2g} FLOPs at {how}",
        f"law: {law.source}",
        f"best: {described(best)}",
        *corpus_lines(best, found, n_corpus, useful / speed),
        *loss_lines(law, found, recipe),
        f"set: pretrain.model.size={found.size} pretrain.n_steps={found.config.n_steps} "
        f"pretrain.batch_tokens={found.config.batch_tokens}",
    ]


def speed_of(device: str, model: GPTConfig, recipe: Recipe) -> tuple[float, str]:
    """FLOPs per second on a device, and where the number is from."""
    if device == "cpu":
        speed = flops_per_second(model, replace(recipe.pretrain.loop, device="cpu"))
        return speed, f"{speed / 1e9:.0f} GFLOP/s, measured here on a model of this shape"
    peak = gpus()[device]
    return ASSUMED_MFU * peak, f"{ASSUMED_MFU:.0%} of its peak of {peak / 1e12:.0f} TFLOP/s, assumed"


def gpus() -> dict[str, float]:
    """FLOPs per second that a GPU is sold for, by name as on the command line: `h200`, `rtx-4090`."""
    return {name.lower().replace(" ", "-"): peak for name, peak in PEAK_FLOPS.items()}


def law_for(session: Session, n_flops: float) -> Law:
    """The parametric law of the newest scaling artifact in the store; published numbers if none serves."""
    made = session.store.artifacts("scaling")
    if not made:
        reason = "there is no scaling artifact in the store: `python -m flows scaling conf/scaling-cpu.yaml` makes one"
        return Law(PUBLISHED, f"that of Besiroglu et al. 2024 ({reason})")
    name = f"scaling artifact {made[0].fingerprint[:12]}"
    fit = read_json(made[0].path / FIT_FILE)
    try:
        return Law(fitted_law(fit, n_flops), name, fit["vocab_size"])
    except ValueError as error:
        return Law(PUBLISHED, f"that of Besiroglu et al. 2024; {name} does not serve: {error}")


def n_corpus_tokens(session: Session) -> int | None:
    """Training tokens of the recipe's shards as they are, or were built last; None: there are none yet."""
    shards = [outcome.artifact for outcome in session.outcomes if outcome.stage == "shard" and outcome.artifact]
    found = shards[0].counts.figures.get("n_train_tokens") if shards else None
    return None if found is None else int(found)


def described(found: Proposal) -> str:
    """A proposal in one line."""
    return (
        f"{found.n_params:,} parameters, {found.n_tokens:,} tokens ({found.n_tokens / found.n_matmul_params:.1f} for "
        f"each of {found.n_matmul_params:,} weights in matrix products)"
    )


def corpus_lines(best: Proposal, found: Proposal, n_corpus: int | None, seconds: float) -> list[str]:
    """How often the corpus would be read; if too often, what it lacks and what it is good for, `found` in `seconds`."""
    if n_corpus is None:
        return [f"corpus: no shards in the store yet; {best.n_tokens / GOOD_EPOCHS:,.0f} training tokens are needed"]
    lines = [f"corpus: {n_corpus:,} training tokens, so {best.n_tokens / n_corpus:.1f} epochs"]
    if found is best:
        return lines
    lacking = best.n_tokens / GOOD_EPOCHS - n_corpus
    return [
        *lines,
        f"it lacks {lacking:,.0f} tokens for that: beyond {GOOD_EPOCHS} epochs repeated text is worth less and less "
        "(Muennighoff et al. 2023)",
        f"with this corpus: {described(found)}, {seconds / 3600:.2g} h",
    ]


def loss_lines(law: Law, found: Proposal, recipe: Recipe) -> list[str]:
    """The loss that the law expects; a published law says nothing about another corpus and vocabulary."""
    if law.vocab_size is None:
        return []
    other = (
        "" if law.vocab_size == recipe.tokenizer.vocab_size else f", with the sweep's {law.vocab_size:,} token types"
    )
    return [f"expected held-out loss: {found.loss:.2f} nats per token, if the corpus is that of the sweep{other}"]
