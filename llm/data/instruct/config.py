"""Where instruction examples come from, and how they are split."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...config import Config, setting
from ..common.credential import CredentialConfig

SourceKind = Literal["definitions", "alpaca", "chat"]

_FIELDS = {"instruction_field", "input_field", "output_field", "messages_field"}
_USED: dict[str, set[str]] = {
    "definitions": set(),
    "alpaca": {"instruction_field", "input_field", "output_field"},
    "chat": {"messages_field"},
}


@dataclass(frozen=True, kw_only=True)
class InstructSource(Config):
    """One source of examples: the corpus itself, files, or a data set."""

    kind: SourceKind = "definitions"
    """definitions: what the corpus says of a name; alpaca: records with instruction, input and output; chat: records
    with messages (role, content), or conversations (from, value) as ShareGPT has them; a turn of the assistant with
    `weight: 0` is context only. A field `system` stands before either."""
    path: str | None = None
    """For alpaca and chat: a file (JSON, JSONL, Parquet, CSV or TSV), a folder with such files, or a pattern with
    `*`."""
    dataset: str | None = None
    """Instead of path: a data set for the library `datasets`, `owner/name` on the hub or a folder. It is fetched once
    and kept among the downloads of the workspace."""
    config_name: str | None = None
    """Which configuration (subset) of the data set; empty: the default one."""
    split: str = "train"
    """Which split of the data set."""
    revision: str | None = None
    """For a data set of the hub: the commit, 40 hexadecimal digits, so that the same data come tomorrow."""
    credential: CredentialConfig | None = setting(None, execution=True)
    """What opens a data set of the hub that is not public, of kind bearer. Empty: nothing is needed."""
    instruction_field: str = "instruction"
    """For alpaca: the key of the question."""
    input_field: str | None = "input"
    """For alpaca: the key of what the question is about, put below it; a record may lack it. Empty: none has it."""
    output_field: str = "output"
    """For alpaca: the key of the answer."""
    messages_field: str | None = None
    """For chat: the key of the list of messages; empty: `messages` or `conversations`, whichever a record has."""
    limit: int | None = setting(None, at_least=1)
    """Take only so many usable examples, the first ones; empty: all."""
    weight: int = setting(1, at_least=1)
    """How often an epoch of training sees each example of this source."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in dataclasses.fields(self):
            is_unused = field.name in _FIELDS - _USED[self.kind]
            if is_unused and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name} is set, which kind {self.kind!r} does not use: leave it out")
        n_places = (self.path is not None) + (self.dataset is not None)
        if self.kind == "definitions" and n_places:
            raise ValueError("kind 'definitions' reads the corpus: leave path and dataset out")
        if self.kind != "definitions" and n_places != 1:
            raise ValueError(f"kind {self.kind!r} needs either path (files) or dataset, and has {n_places} of them")
        if self.credential and not (self.is_on_hub and self.credential.kind == "bearer"):
            raise ValueError("credential goes with a data set of the hub, and as kind bearer: leave it out")
        if self.is_on_hub and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                f"revision is {self.revision!r}; allowed: a commit of {self.dataset}, 40 hexadecimal digits, because a "
                f"branch or tag may move. The newest is at https://huggingface.co/datasets/{self.dataset}/commits/main"
            )

    @property
    def is_on_hub(self) -> bool:
        """Whether the data set is one of the hub, and no folder here."""
        return self.dataset is not None and not Path(self.dataset).is_dir()

    @property
    def label(self) -> str:
        """What the source is called in the artifact: nothing of this machine is in it."""
        place = self.path or self.dataset or self.kind
        return place if self.is_on_hub else Path(place).name


@dataclass(frozen=True, kw_only=True)
class InstructConfig(Config):
    """Where questions and answers come from, and which are held out."""

    sources: tuple[InstructSource, ...] = (InstructSource(),)
    """What the examples are made of, one source or a mixture."""

    bad_examples: Literal["refuse", "drop"] = "refuse"
    """What to do with a record that is broken (no JSON, a field missing, roles out of order): refuse, naming file, line
    and field; or drop it, and count it. Empty answers, special tokens in a text, duplicates and chats of which nothing
    is learned are always dropped."""

    question: str = "What does {symbol} do?"
    """For definitions: the question; `{symbol}` stands for the name that is asked about."""

    min_answer_chars: int = setting(20, at_least=1)
    """For definitions: drop an answer shorter than this, in characters."""

    max_answer_chars: int = setting(500, at_least=1)
    """For definitions: drop an answer longer than this, in characters."""

    max_symbols: int = setting(3, at_least=1)
    """For definitions: drop a description shared by more symbols than this: it says little about each of them."""

    held_out_fraction: float = setting(0.1, at_least=0, at_most=0.9)
    """Share of the examples kept from training, for validation and the benchmark (never less than four). Examples that
    ask the same question are kept together, and those with one answer where it is no label that many share."""

    pages_per_partition: int = setting(200, at_least=1)
    """Pages read for definitions by each partition: the unit of parallel work."""

    seed: int = 0
    """Draws the held-out examples and the order of choices."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources or sum(source.kind == "definitions" for source in self.sources) > 1:
            raise ValueError("sources needs at least one source, and at most one of kind 'definitions'")
        if "{symbol}" not in self.question:
            raise ValueError(f"question is {self.question!r}; it must contain {{symbol}}")
        if self.min_answer_chars > self.max_answer_chars:
            raise ValueError(
                f"min_answer_chars is {self.min_answer_chars}; allowed: up to max_answer_chars, {self.max_answer_chars}"
            )

    @property
    def definitions(self) -> InstructSource | None:
        """The source that is the corpus itself, if there is one."""
        return next((source for source in self.sources if source.kind == "definitions"), None)
