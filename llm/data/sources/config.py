"""The configuration of one source: what kind it is, where it lies, which of its fields are text, title and address."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from ...config import Config, setting
from ..common.credential import CredentialConfig

Kind = Literal["warc", "wet", "common-crawl", "dataset", "parquet", "jsonl", "text"]


class KindOfSource(NamedTuple):
    """The fields of `SourceConfig` that a kind uses, and the ends of the names of files that it reads in a folder."""

    fields: set[str]
    suffixes: tuple[str, ...] = ()


_PACKED = ("", ".gz", ".zst")
_EVERY_KIND = {"name", "kind", "max_records", "n_records", "credential"}
_COLUMNS = {"text_field", "title_field", "url_field"}
KINDS: dict[Kind, KindOfSource] = {
    "warc": KindOfSource({"paths"}, (".warc", ".warc.gz")),
    "wet": KindOfSource({"paths"}, (".wet", ".wet.gz")),
    "common-crawl": KindOfSource({"path_list", "index", "base_url", "max_files"}),
    "dataset": KindOfSource({"dataset", "config_name", "split", "revision", "paths"} | _COLUMNS, ("",)),
    "parquet": KindOfSource({"paths"} | _COLUMNS, (".parquet",)),
    "jsonl": KindOfSource(
        {"paths"} | _COLUMNS, tuple(f"{name}{end}" for name in (".jsonl", ".ndjson") for end in _PACKED)
    ),
    "text": KindOfSource({"paths", "separator"}, tuple(f".txt{end}" for end in _PACKED)),
}
LOCAL_BUILDERS = ("parquet", "json", "csv", "text", "arrow")


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Config):
    """One source of pages or texts. Which fields count depends on `kind`; one that does not is refused."""

    name: str = setting(name="-_.")
    """Name of the source, of letters, digits, `-`, `_` and `.`; it stands in every document as its `source`."""

    kind: Kind
    """`warc`: web archives; `wet`: Common Crawl's extracted text; `common-crawl`: a list of its files, or an index;
    `dataset`: a data set of the Hugging Face hub; `parquet`, `jsonl`, `text`: files, also compressed."""

    paths: tuple[str, ...] = ()
    """Files, folders (with all below them), patterns with `*`, or addresses such as `https://...`."""

    text_field: str = "text"
    """The column or key that holds the text."""

    title_field: str | None = None
    """The column or key that holds the title; empty: none."""

    url_field: str | None = None
    """The column or key that holds the address; empty: one is made of source, file and row."""

    separator: str | None = None
    """For `text`: what stands between two documents, such as `<|endoftext|>` or a line break; empty: a file is one."""

    dataset: str | None = None
    """For `dataset`: `owner/name` on the hub, a folder, or `parquet`, `json`, `csv`, `text`, `arrow` with `paths`."""

    config_name: str | None = None
    """For `dataset`: which of its configurations (subsets); empty: the default one."""

    split: str = "train"
    """For `dataset`: which of its splits."""

    revision: str | None = None
    """For `dataset` on the hub: the commit, 40 hexadecimal digits, so that the same data come tomorrow."""

    path_list: str | None = None
    """For `common-crawl`: file or address of a list of archives, a path a line (`warc.paths.gz`, `wet.paths.gz`)."""

    index: str | None = None
    """For `common-crawl`: file (Parquet, JSONL, CDXJ) or address of single records (file, offset, length) to fetch."""

    base_url: str = "https://data.commoncrawl.org/"
    """For `common-crawl`: what stands before the paths: an address, or a folder."""

    credential: CredentialConfig | None = setting(None, execution=True)
    """What opens addresses of http and https, and a data set of the hub, that are not public. Empty: nothing is needed.
    (Addresses such as s3:// are opened by what their own tools read, AWS_ACCESS_KEY_ID and its like.)"""

    max_files: int | None = setting(None, at_least=1)
    """For `common-crawl`: take only so many files from the start of `path_list`, about 1 GB each; empty: all."""

    max_records: int | None = setting(None, at_least=1)
    """Take only so many records that can be used, from the start; one worker then reads the source. Empty: all."""

    n_records: int | None = setting(None, at_least=0)
    """How many records the source must have, used and skipped; otherwise the stage fails. Empty: not checked."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_unused()
        self._check_credential()
        if self.kind == "common-crawl":
            self._check_common_crawl()
        elif self.kind == "dataset":
            self._check_dataset()
        elif not self.paths:
            raise ValueError(
                f"{self.name}: paths is empty; kind {self.kind} needs files, folders, patterns or addresses"
            )

    def _refuse_unused(self) -> None:
        used = _EVERY_KIND | KINDS[self.kind].fields
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in used and value != field.default:
                raise ValueError(
                    f"{self.name}: {field.name} is {value!r}, which kind {self.kind} does not use; "
                    f"it uses {', '.join(sorted(KINDS[self.kind].fields))}"
                )

    def _check_credential(self) -> None:
        if self.credential is None:
            return
        places = [*self.paths, self.path_list, self.index, self.kind == "common-crawl" and self.base_url]
        is_web = any(str(place).startswith(("http://", "https://")) for place in places if place)
        if self.kind == "dataset" and not (self.is_on_hub and self.credential.kind == "bearer"):
            raise ValueError(
                f"{self.name}: credential goes with a dataset of the hub, and as kind bearer; read files behind a "
                "credential with kind parquet or jsonl"
            )
        if self.kind != "dataset" and not is_web:
            raise ValueError(f"{self.name}: credential opens http and https addresses, and none is named: leave it out")

    def _check_common_crawl(self) -> None:
        if (self.path_list is None) == (self.index is None):
            both = "neither path_list nor index is" if self.path_list is None else "both path_list and index are"
            raise ValueError(
                f"{self.name}: {both} given; kind common-crawl needs one: path_list (whole archives, as in "
                "https://data.commoncrawl.org/crawl-data/CC-MAIN-2024-51/warc.paths.gz) or index (single records)"
            )
        if self.index is not None and self.max_files is not None:
            raise ValueError(f"{self.name}: max_files is {self.max_files}; it goes with path_list, not with index")

    def _check_dataset(self) -> None:
        if not self.dataset:
            raise ValueError(f"{self.name}: dataset is empty; give owner/name on the hub, or a folder")
        if self.dataset in LOCAL_BUILDERS:
            if not self.paths:
                raise ValueError(f"{self.name}: paths is empty; dataset {self.dataset} needs the files to read")
        elif self.paths:
            raise ValueError(
                f"{self.name}: paths is {list(self.paths)}; it goes with dataset {', '.join(LOCAL_BUILDERS)} only"
            )
        elif self.is_on_hub and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                f"{self.name}: revision is {self.revision!r}; allowed: a commit, 40 hexadecimal digits, because a "
                f"branch or tag may move. The newest is the first one listed at "
                f"https://huggingface.co/datasets/{self.dataset}/commits/main"
            )

    @property
    def is_on_hub(self) -> bool:
        """Whether `dataset` names a data set of the hub: it is no builder, and no folder here."""
        return self.dataset is not None and self.dataset not in LOCAL_BUILDERS and not Path(self.dataset).is_dir()

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns or keys that are read."""
        return tuple(filter(None, (self.text_field, self.title_field, self.url_field)))

    def require_fields(self, present: Iterable[str], file: str) -> None:
        """Raises ValueError when `file` lacks a column that is read."""
        present = list(present)
        for option in ("text_field", "title_field", "url_field"):
            value = getattr(self, option)
            if value and value not in present:
                raise ValueError(
                    f"{self.name}: {option} is {value!r}, but {file} has no such column; it has {', '.join(present)}"
                )
