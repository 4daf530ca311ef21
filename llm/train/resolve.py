"""Scaling presets: from a model's size follow its shape, its batch, its learning rate and the length of its training.

What a config sets stays as it is; what it leaves empty follows. Between two measured points, rates follow
a power of the model's width or of the number of tokens; the powers agree with what others have found:

    point            width   tokens   batch_tokens  learning rate  init_std   where from
    the demo           128    2.3 M          2,048         3e-3       0.06    benchmarks/RESULTS.md
    GPT-2, 124 M       768    2.5 G        524,288         6e-4       0.02    nanoGPT, llm.c, GPT-3
    power                                     0.79        -0.90      -0.61

- learning rate: width^-0.9. OLMo's ladder has it fall as N^(-1/3), muP (Yang et al. 2022) as width^-1: between the two
  points N grows as width^2.5, and all three are nearly one line.
- batch: tokens^0.79 up to the second point, for 5 to 30 M parameters within a quarter of OLMo's rule, which goes as
  N^(2/3); above it tokens^0.383 (nanochat).
- tokens: 20 a parameter (Hoffmann et al. 2022, table 3), counting the weights that tokens are multiplied with. At most
  four epochs of the corpus: beyond that repeated text teaches less and less (Muennighoff et al. 2023).
- weight decay: 0.1 for every size (GPT-3, nanoGPT, llm.c); with Muon as width^-1, so that what a step takes away,
  learning rate times decay, falls as width^-2 (nanochat).
- warmup: a twentieth of the steps, one token a parameter (OLMo's ladder), and at least 20.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ..config import Config
from ..model.presets import PRESETS
from ..model.shape import GPTConfig
from ..model.size import n_matmul_params, n_params
from .config import ModelShape, PretrainConfig, ResolvedPretrain

TOKENS_PER_PARAMETER = 20
MAX_EPOCHS = 4
LARGE_HEADS_FROM = 500_000_000
"""Parameters from which heads are 128 wide instead of 64: nanochat's choice, and what GPU kernels are made for."""
ASPECT = 64
"""Width over depth of a size given as a number (nanochat; Kaplan et al. 2020, figure 5: 30 to 100 are alike)."""
SMALLEST_WIDTH = 64
"""Below this width rates stay what they are at it: nothing was measured there."""

MEASURED: dict[str, dict[str, int]] = {"demo": {"batch_tokens": 2048, "n_steps": 1100, "warmup_steps": 20}}
"""What a size has instead of the rules: the demo ends after minutes, long before 20 tokens a parameter."""

UNITS = {"k": 10**3, "m": 10**6, "b": 10**9}

Follows = dict[str, tuple[Any, str]]
"""By field: the value that it has if it is empty, and from what that follows."""


@dataclass(frozen=True)
class Resolved:
    """A config with nothing left empty that follows from the size."""

    config: ResolvedPretrain
    model: GPTConfig
    """The shape in full."""
    reasons: dict[str, str]
    """By dotted name of a field: where its value comes from."""

    def lines(self) -> list[str]:
        """Returns a line for each of these fields: `optimizer.learning_rate 0.003 (from the width, 128)`."""
        return [f"{name} {self._shown(name)} ({reason})" for name, reason in self.reasons.items()]

    def _shown(self, name: str) -> str:
        value: Any = functools.reduce(getattr, name.split("."), self.config)
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def resolve(
    config: PretrainConfig,
    vocab_size: int,
    context_length: int,
    n_train_tokens: int | None = None,
    published: GPTConfig | None = None,
) -> Resolved:
    """Fills in what is empty, for a vocabulary, a context length and a number of tokens to train on (None: no limit).

    `published` is the shape of the model that `config.start_from` names, which may have a longer context. Raises
    ValueError for an unknown size, for a shape that cannot be, and for one that is not the published model's.
    """
    if published:
        model, of_shape = _published_shape(config.model, published)
    else:
        model, of_shape = _shape(config.model, vocab_size, context_length)
    of_length = _length(config, dataclasses.replace(model, context_length=context_length), n_train_tokens)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values |= _missing(config, of_length)
    of_rates = _rates(config, model, values["n_steps"])
    values["model"] = dataclasses.replace(config.model, **_missing(config.model, of_shape), tied_head=model.tied_head)
    values["optimizer"] = config.optimizer.resolved(**{name: value for name, (value, _) in of_rates.items()})
    reasons = _reasons(config.model, of_shape, "model.") | _reasons(config, of_length, "")
    reasons |= _reasons(config.optimizer, of_rates, "optimizer.")
    return Resolved(ResolvedPretrain(**values), model, reasons)


def _missing(config: Config, follows: Follows) -> dict[str, Any]:
    """Returns the values of the fields that the config leaves empty."""
    return {name: value for name, (value, _) in follows.items() if getattr(config, name) is None}


def _reasons(config: Config, follows: Follows, prefix: str) -> dict[str, str]:
    """Returns where the value of each field comes from, under its dotted name."""
    return {prefix + name: why if getattr(config, name) is None else "set" for name, (_, why) in follows.items()}


def _shape(shape: ModelShape, vocab_size: int, context_length: int) -> tuple[GPTConfig, Follows]:
    """Returns the model that a `ModelShape` means, and where its values come from if they are empty."""
    values, known = dataclasses.asdict(shape), {"vocab_size": vocab_size, "context_length": context_length}
    size = values.pop("size")
    chosen = {name: value for name, value in values.items() if value is not None}
    of_size = PRESETS[size] if size in PRESETS else _of_number(size, chosen, known)
    follows = _still_true(of_size, chosen)
    width = chosen.get("d_model", of_size["d_model"])
    of_width = {"n_heads": n_heads_of(width), "init_std": init_std(width)}
    model = GPTConfig(**{**of_width, **follows, **chosen, **known})
    reasons = dict.fromkeys(values, "from the shape")
    reasons |= dict.fromkeys(of_width, f"from the width, {width}") | dict.fromkeys(follows, f"from the size, {size}")
    may_follow = [name for name in values if getattr(ModelShape(), name) is None]
    return model, {name: (getattr(model, name), reasons[name]) for name in may_follow}


def _published_shape(shape: ModelShape, published: GPTConfig) -> tuple[GPTConfig, Follows]:
    """Returns a published model and its shape as values that follow; raises ValueError when the config has another."""
    follows: Follows = {}
    for field in dataclasses.fields(shape):
        value, theirs = getattr(shape, field.name), getattr(published, field.name, None)
        if value is None:
            follows[field.name] = theirs, "from start_from"
        if field.name == "dropout" or value in (field.default, theirs):
            continue
        has = "has a size of its own" if theirs is None else f"has {field.name} {theirs}"
        raise ValueError(f"model.{field.name} is {value}, but the model of start_from {has}: omit model.{field.name}")
    return dataclasses.replace(published, dropout=shape.dropout), follows


def _still_true(of_size: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of a size that still hold when a recipe gives the model another width or other parts."""
    dropped = {"vocab_size", "context_length"}
    if chosen.get("d_model", of_size["d_model"]) != of_size["d_model"]:
        dropped |= {"n_heads", "n_kv_heads", "d_mlp", "init_std"}
    if chosen.get("architecture", of_size["architecture"]) != of_size["architecture"]:
        dropped |= {"n_kv_heads", "d_mlp"}
    if "n_heads" in chosen:
        dropped.add("n_kv_heads")
    return {name: value for name, value in of_size.items() if name not in dropped}


def _of_number(size: str, chosen: dict[str, Any], known: dict[str, int]) -> dict[str, Any]:
    """Returns architecture, width, depth and heads of the shape nearest a number of parameters.

    Of those within 10 % of it the one that is best by this and by how near its width is to 64 times its depth; if there
    is none, the nearest one. Raises ValueError when that is more than a quarter off.
    """
    asked = n_params_asked(size)
    head_dim = 128 if asked >= LARGE_HEADS_FROM else 64
    rest = {"architecture": chosen.get("architecture", "modern"), "tied_head": chosen["tied_head"], **known}
    widths = range(head_dim, 16_384 + 1, head_dim)
    shapes = [_of_width(width, asked, {"n_heads": width // head_dim, **rest}) for width in widths]

    def off(shape: GPTConfig) -> float:
        return abs(math.log(n_params(shape) / asked))

    def cost(shape: GPTConfig) -> float:
        return 3 * off(shape) + abs(math.log(shape.d_model / shape.n_layers / ASPECT))

    best = min((shape for shape in shapes if off(shape) < math.log(1.1)), key=cost, default=min(shapes, key=off))
    if off(best) > math.log(1.25):
        raise ValueError(
            f"model.size is {size!r}; the nearest model has {n_params(best):,} parameters, of which the vocabulary of "
            f"{best.vocab_size:,} tokens takes {best.vocab_size * best.d_model:,}: give another size, or make "
            "tokenizer.vocab_size smaller"
        )
    return {name: getattr(best, name) for name in ("architecture", "d_model", "n_layers", "n_heads")}


def _of_width(width: int, asked: int, rest: dict[str, Any]) -> GPTConfig:
    """Returns the shape of a width whose depth brings it nearest to a number of parameters."""
    one, two = (GPTConfig(d_model=width, n_layers=n, **rest) for n in (1, 2))
    n_more = round((asked - n_params(one)) / (n_params(two) - n_params(one)))
    return dataclasses.replace(one, n_layers=max(1, 1 + n_more))


def n_params_asked(size: str) -> int:
    """Parses a number of parameters such as `50m`, `1.3b` or `800k`; raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmb])", size.lower())
    if match is None:
        near = "".join(f"; did you mean {name}?" for name in get_close_matches(size, PRESETS, n=1))
        raise ValueError(
            f"model.size is {size!r}; allowed: {', '.join(PRESETS)}, or a number of parameters such as 50m or 1.3b"
            + near
        )
    return round(float(match[1]) * UNITS[match[2]])


def n_heads_of(width: int) -> int:
    """Returns the number of heads that divides a width into parts nearest 64 and, where it can be, even."""
    divisors = [n for n in range(1, width + 1) if width % n == 0]
    even = [n for n in divisors if width // n % 2 == 0]
    return min(even or divisors, key=lambda n: abs(math.log(width / n / 64)))


def power(x: float, low: tuple[float, float], high: tuple[float, float]) -> float:
    """Returns the value at `x` of the power law y = a x^b through two points (x, y)."""
    exponent = math.log(high[1] / low[1]) / math.log(high[0] / low[0])
    return low[1] * (x / low[0]) ** exponent


def init_std(width: int) -> float:
    """Returns standard deviation of fresh weights: 0.06 at width 128, 0.02 at 768 and above.

    It belongs to the learning rate: at width 64 the rule's 0.0056 is better than half of it with the rule's 0.092, and
    worse with 0.06 (benchmarks/RESULTS.md).
    """
    return max(0.02, rounded(power(max(width, SMALLEST_WIDTH), (128, 0.06), (768, 0.02))))


def learning_rate(width: int) -> float:
    """Returns highest learning rate of AdamW: 3e-3 at width 128, 6e-4 at 768."""
    return rounded(power(max(width, SMALLEST_WIDTH), (128, 3e-3), (768, 6e-4)))


def batch_tokens(n_tokens: float, context_length: int) -> int:
    """Returns tokens in a step of a training of `n_tokens`: as many sequences as the power of two nearest the rule."""
    small, large = (2.25e6, 2048.0), (2.47e9, 524_288.0)
    rule = power(n_tokens, small, large) if n_tokens < large[0] else large[1] * (n_tokens / large[0]) ** 0.383
    return context_length * 2 ** max(0, round(math.log2(rule / context_length)))


def rounded(x: float) -> float:
    """Rounds to two significant digits."""
    return float(f"{x:.2g}")


def _length(config: PretrainConfig, model: GPTConfig, n_train_tokens: int | None) -> Follows:
    """Returns the batch and the number of steps."""
    if measured := _measured(config, model):
        batch = max(1, measured["batch_tokens"] // model.context_length) * model.context_length
        why = f"measured for size {config.model.size}"
        return {"batch_tokens": (batch, why), "n_steps": (measured["n_steps"], why)}
    n_tokens = TOKENS_PER_PARAMETER * n_matmul_params(model)
    why = f"{TOKENS_PER_PARAMETER} tokens for each of {n_matmul_params(model):,} weights in matrix products"
    if n_train_tokens is not None and n_tokens > MAX_EPOCHS * n_train_tokens:
        why = f"{MAX_EPOCHS} epochs of {n_train_tokens:,} tokens; {why} would be {n_tokens:,}"
        n_tokens = MAX_EPOCHS * n_train_tokens
    batch = batch_tokens(n_tokens, model.context_length)
    n_steps = math.ceil(n_tokens / (config.batch_tokens or batch))
    return {"batch_tokens": (batch, f"for a training of {n_tokens:,} tokens"), "n_steps": (n_steps, why)}


def _rates(config: PretrainConfig, model: GPTConfig, n_steps: int) -> Follows:
    """Returns what the optimizer takes from the model's width and the number of steps."""
    width, from_width = model.d_model, f"from the width, {model.d_model}"
    decay = (rounded(0.1 * 768 / width), from_width) if config.optimizer.kind == "muon" else (0.1, "for every size")
    warmup = (max(20, n_steps // 20), "a twentieth of the steps, at least 20")
    if measured := _measured(config, model):
        warmup = (measured["warmup_steps"], f"measured for size {config.model.size}")
    rate = learning_rate(width), from_width
    if config.start_from:
        rate = rounded(rate[0] / 10), f"a tenth of that {from_width}: training goes on from start_from"
    return {"learning_rate": rate, "weight_decay": decay, "warmup_steps": warmup}


def _measured(config: PretrainConfig, model: GPTConfig) -> dict[str, int]:
    """Returns what was measured for the size, as long as width and depth are the size's own."""
    preset = PRESETS.get(config.model.size, {})
    is_own = config.start_from is None and (model.d_model, model.n_layers) == (
        preset.get("d_model"),
        preset.get("n_layers"),
    )
    return MEASURED.get(config.model.size, {}) if is_own else {}
