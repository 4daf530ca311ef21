"""Settings of the methods that train a model further. No torch is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...config import Config, setting
from ..config import LoopConfig, OptimizerConfig


def refuse_compile(loop: LoopConfig) -> None:
    """Raises ValueError when steps whose batches differ in shape are to be compiled."""
    if loop.compile:
        raise ValueError("loop.compile is true; here batches differ in shape and are not compiled: omit it")


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Config):
    """Low-rank adapters (Hu et al. 2021): of each matrix only a thin correction is learned; see llm/model/lora.py."""

    rank: int = setting(8, at_least=1)
    """Rank of the correction of a matrix."""
    alpha: float = setting(16.0, at_least=1e-6)
    """The correction counts alpha / rank times."""
    targets: tuple[str, ...] | None = None
    """Layers that get adapters, by the end of their names (query, attention.projection, mlp.expand); empty: all linear
    layers of the blocks."""
    embeddings: bool = True
    """Whether the tokens' embeddings and the head learn as well, as they are. A base model has never seen the tokens
    that begin and end a turn: without this it learns neither, and never ends an answer."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Config):
    """Supervised fine-tuning of a pretrained model on chats; only what the assistant says is learned."""

    n_epochs: int = setting(3, at_least=1)
    """Length of training, in epochs; the last step may start another epoch to be full."""
    n_steps: int | None = setting(None, at_least=1)
    """Length of training in optimizer steps; empty: from n_epochs."""
    batch_size: int = setting(32, at_least=1)
    """Examples in a step."""
    too_long: Literal["drop", "shorten"] = "drop"
    """What to do with an example of more tokens than the context holds: leave it out and count it, or leave out the
    last exchanges of its chat until it fits."""
    replay: float = setting(0.0, at_least=0.0, at_most=10.0)
    """Sequences of the base model's training text that are learned along with the examples, as a share of their number:
    against forgetting. Such a sequence is as long as the context, so 0.1 may add half as many tokens again."""
    n_samples: int = setting(3, at_least=0)
    """Held-out questions that the model answers at each measurement."""
    lora: LoraConfig | None = None
    """Learn low-rank adapters instead of all weights; they are merged into the model in the end, and kept beside it in
    peft's layout. They take a learning rate several times as high. Empty: all weights are learned."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How weights follow gradients."""
    loop: LoopConfig = LoopConfig()
    """Measurements, checkpoints, seed, device; micro_batch_size counts rows that hold several examples each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora and self.optimizer.kind != "adamw":
            raise ValueError(f"lora is set and optimizer.kind is {self.optimizer.kind!r}; adapters learn with 'adamw'")
        if self.loop.compile:
            raise ValueError(
                "loop.compile is true; fine-tuning's batches differ in shape and are not compiled: omit it"
            )


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig(Config):
    """Preference pairs, and the chat model's log-likelihood of each answer before it is trained on them."""

    files: tuple[str, ...] = ()
    """JSONL, JSON or Parquet files (or patterns with `*`) of records with `prompt`, `chosen`, `rejected`: texts or
    messages; or with `instruction`, `input`, `chosen`, `rejected`."""
    held_out_fraction: float = setting(0.1, at_least=0.001, at_most=0.9)
    """Share of the prompts kept from training, chosen by their content."""
    bad_examples: Literal["refuse", "drop"] = "refuse"
    """What to do with a record that is broken (no JSON, a field missing, an empty answer, roles out of order): refuse,
    naming file, line and field; or drop it, and count it."""
    micro_batch_size: int = setting(16, at_least=1)
    """Pairs that go through the model at once."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Numbers used in matrix products; the same as in `prefer.loop`, or the two models are not compared alike."""
    device: Literal["auto", "cpu", "cuda"] = setting("auto", execution=True)
    """Where to compute; auto: on a GPU if there is one."""
    n_threads: int | None = setting(None, at_least=1, execution=True)
    """CPU threads; empty: one a core."""


@dataclass(frozen=True, kw_only=True)
class PreferConfig(Config):
    """Direct preference optimisation (DPO, Rafailov et al. 2023) of the chat model on preference pairs."""

    beta: float = setting(0.1, at_least=1e-6)
    """KL penalty strength: large values keep the model near the reference model."""
    label_smoothing: float = setting(0.0, at_least=0.0, at_most=0.499)
    """Share of pairs taken to be labelled the wrong way round (Mitchell 2023)."""
    n_epochs: int = setting(1, at_least=1)
    """Length of training, in epochs."""
    n_steps: int | None = setting(None, at_least=1)
    """Length of training in optimizer steps; empty: from n_epochs."""
    batch_size: int = setting(16, at_least=1)
    """Pairs in a step."""
    n_samples: int = setting(3, at_least=0)
    """Held-out prompts that the model answers at each measurement."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How weights follow gradients; empty: learning rate 1e-4 after 10 steps of warmup, no weight decay."""
    loop: LoopConfig = LoopConfig(micro_batch_size=8)
    """Measurements, checkpoints, seed, device; a sequence here is a pair."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_compile(self.loop)


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(Config):
    """A classifier out of the recipe's model: a class head on what the model knows at the end of a text."""

    files: tuple[str, ...] = ()
    """JSONL, JSON, Parquet, CSV or TSV files (or patterns with `*`) of records with a text and a label."""
    held_out_files: tuple[str, ...] = ()
    """The same, to measure with; empty: a part of `files` is held out."""
    held_out_fraction: float = setting(0.2, at_least=0.001, at_most=0.9)
    """Share of each label's texts kept from training, chosen by their content, where there are no `held_out_files`."""
    text_field: str = "text"
    """The column or key that holds the text; a text longer than the context is cut at its end."""
    label_field: str = "label"
    """The column or key that holds the label: a text or a number."""
    bad_examples: Literal["refuse", "drop"] = "refuse"
    """What to do with a record that is broken (no label, a text with two labels, a held-out label that is not trained
    on): refuse, naming file, line and field; or drop it, and count it."""
    trainable_blocks: int = setting(2, at_least=0)
    """Last blocks of the model that learn, with the norm after them and the class head; the rest stays as it is."""
    random_baseline: bool = True
    """Whether the same is trained from random weights, to see what pretraining is worth; takes as long again."""
    n_calibration_bins: int = setting(10, at_least=2)
    """Equal intervals of confidence, in each of which it is compared with the share of right answers."""
    n_epochs: int = setting(2, at_least=1)
    """Length of training, in epochs; a small set is soon known by heart."""
    n_steps: int | None = setting(None, at_least=1)
    """Length of training in optimizer steps; empty: from n_epochs."""
    batch_size: int = setting(16, at_least=1)
    """Texts in a step."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How weights follow gradients; empty: learning rate 5e-4 after 10 steps of warmup, weight decay 0.1."""
    loop: LoopConfig = LoopConfig(micro_batch_size=16)
    """Measurements, checkpoints, seed, device; a sequence here is a text. `keep: best` chooses by the held-out texts,
    so the scores on them then flatter a little."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_compile(self.loop)
        if self.loop.parallel.n_processes > 1:
            raise ValueError("loop.parallel.n_processes is above 1; a classifier is trained in one process")


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig(Config):
    """Reinforcement learning of the chat model on questions whose answers can be checked (GRPO, Shao et al. 2024)."""

    files: tuple[str, ...] = ()
    """JSONL, JSON, Parquet, CSV or TSV files (or patterns with `*`) of records with `prompt` (text or messages; or
    `instruction` and `input`) and `answer`, the right answer."""
    held_out_fraction: float = setting(0.1, at_least=0.001, at_most=0.9)
    """Share of the questions kept from training, chosen by their content."""
    bad_examples: Literal["refuse", "drop"] = "refuse"
    """What to do with a record that is broken (no JSON, a field missing, a question with two answers): refuse, naming
    file, line and field; or drop it, and count it."""
    match: Literal["exact", "contains"] = "exact"
    """When an answer earns the reward 1 instead of 0: if it is the right answer (but for white space around it) and
    ends its turn, or if it contains it."""
    group_size: int = setting(8, at_least=2)
    """Answers drawn to each question; each is compared with the others' mean reward."""
    scale_by_std: bool = False
    """Whether advantages are divided by the standard deviation of their group's rewards, as in the paper; without it
    very easy and very hard questions do not count more (Liu et al. 2025)."""
    temperature: float = setting(1.0, at_least=0.01)
    """Of sampling. Away from 1 the answers are not quite those of the model that is trained on them."""
    max_answer_tokens: int = setting(32, at_least=1)
    """Longest answer, in tokens; a question that leaves no room for it in the context is dropped."""
    n_steps: int = setting(100, at_least=1)
    """Length of training, in optimizer steps."""
    batch_size: int = setting(8, at_least=1)
    """Questions in a step."""
    n_samples: int = setting(3, at_least=0)
    """Held-out questions whose answers are kept at each measurement."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How weights follow gradients; empty: learning rate 3e-4 after 5 steps of warmup, no weight decay."""
    loop: LoopConfig = LoopConfig(micro_batch_size=32)
    """Measurements, checkpoints, seed, device. A sequence here is an answer, in `n_eval_sequences` a question. Of the
    guard only what is not finite counts: here loss and gradient say how surprising the rewards are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_compile(self.loop)
        if self.loop.parallel.n_processes > 1 and self.loop.parallel.strategy != "ddp":
            strategy = self.loop.parallel.strategy
            raise ValueError(f"loop.parallel.strategy is {strategy!r}; a whole model has to write answers: use 'ddp'")
