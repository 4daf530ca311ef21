"""The artifact store: immutable directories, each with a manifest that is written last.

`store/<stage>/<fingerprint>/` holds the files of one build, `manifest.json` (what it is: it never holds a time or a
host) and `provenance.json` (how it came about). A directory without a manifest is no artifact. Both JSON files carry a
hash of themselves: an artifact whose manifest is damaged counts as never built; damaged provenance costs nothing but
what it says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm.counts import Counts
from llm.files import (
    file_damage,
    file_entry,
    fsync_directory,
    put_new,
    read_sealed,
    remove,
    remove_at_once,
    write_sealed,
)

from .engine import file_id, known_entries
from .fingerprint import Key

MANIFEST, PROVENANCE = "manifest.json", "provenance.json"
ORDER = ".order"
"""The folder with a file for each number that was given out, which says to what."""
MANIFEST_KEYS = {
    "stage",
    "makes",
    "label",
    "version",
    "fingerprint",
    "config",
    "inputs",
    "code",
    "external_files",
    "files",
    "counts",
    "digest",
}
FULL_CHECK_BYTES = 1 << 28
"""Up to this size an artifact's files are hashed at every hit; above it, only files whose time has changed are."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Artifact:
    """A reference to a built artifact."""

    stage: str
    fingerprint: str
    digest: str
    """Hash of the content; the only thing that the next stage's fingerprint sees."""
    path: Path

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """Stage, version, fingerprint, config, inputs, code, files, counts, digest."""
        return read_manifest(self.path)

    @property
    def provenance(self) -> dict[str, Any]:
        """How this build came about: start, seconds, command, versions, MLflow run.

        Damaged, it says only the number, and when by the manifest's time, so that the newest artifact stays the newest;
        every file is hashed again without it.
        """
        with contextlib.suppress(OSError, ValueError):
            return read_sealed(self.path / PROVENANCE)
        with contextlib.suppress(OSError):
            written = datetime.fromtimestamp((self.path / MANIFEST).stat().st_mtime, UTC)
            number = given_number(self.path.parents[1] / ORDER, f"{self.stage}/{self.fingerprint}")
            return {"started": written.isoformat(timespec="seconds"), "number": number}
        return {}

    @property
    def age(self) -> tuple[int, str]:
        """By which the newest artifact of a store is found: the number that it got when it was committed.

        Clocks go wrong; the time of its start decides only between artifacts that were built before there were numbers.
        """
        provenance = self.provenance
        return int(provenance.get("number", 0)), str(provenance.get("started", ""))

    def note(self, **values: Any) -> None:
        """Writes values into the provenance, over those that are there."""
        write_sealed(self.path / PROVENANCE, {**self.provenance, **values})

    @property
    def makes(self) -> str | None:
        """What kind of model it is: `base`, `chat`, `classifier`; None for what is no model."""
        return self.manifest["makes"]

    @property
    def label(self) -> str:
        """What reports and model cards call its stage."""
        return str(self.manifest["label"])

    @property
    def counts(self) -> Counts:
        """What the stage took in, kept and dropped."""
        return Counts.from_dict(self.manifest["counts"])

    @property
    def input_digests(self) -> set[str]:
        """Digests of what it was made from."""
        return {item["digest"] for item in self.manifest["inputs"]}

    def files(self, pattern: str) -> list[Path]:
        """Returns the files whose name matches a glob pattern, sorted by name."""
        return sorted(self.path.glob(pattern))

    def damage(self, *, full: bool) -> list[str]:
        """Returns what is wrong with the artifact, one line each: `file_damage` and strangers."""
        strangers = [f"{path} is not in the manifest: remove it" for path in self.strangers()]
        return self.file_damage(full=full) + strangers

    def strangers(self) -> list[Path]:
        """Returns the files that the manifest does not list: a stage that reads all files of a form would read them.

        Hidden ones, which no stage reads, are left out; nothing is known of an artifact with a damaged manifest.
        """
        try:
            listed = {entry["path"] for entry in read_manifest(self.path)["files"]}
        except (OSError, ValueError):
            return []
        names = {str(path.relative_to(self.path)): path for path in self.path.rglob("*") if not path.is_dir()}
        hidden = {name for name in names if any(part.startswith(".") for part in Path(name).parts)}
        return [names[name] for name in sorted(names.keys() - listed - hidden - {MANIFEST, PROVENANCE})]

    def file_damage(self, *, full: bool) -> list[str]:
        """Returns what is wrong with the manifest or the files that it lists, one line each.

        Sizes are always checked, SHA-256 if `full` or if the time of a file has changed.
        """
        try:
            entries = read_manifest(self.path)["files"]
        except (OSError, ValueError) as error:
            return [str(error)]
        return file_damage(self.path, entries, {} if full else self.provenance.get("modified_ns"))

    @property
    def n_bytes(self) -> int:
        """Total size of the files."""
        return sum(entry["bytes"] for entry in self.manifest["files"])


class Store:
    """The artifacts under one root directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, stage: str, fingerprint: str) -> Path:
        """Returns where the artifact of a fingerprint is or would be."""
        return self.root / stage / fingerprint

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """Returns the artifact of a fingerprint, its files sound or not; None when it was never built.

        One with a damaged manifest counts as never built, with a warning.
        """
        path = self.path(stage, fingerprint)
        try:
            return Artifact(stage, fingerprint, read_manifest(path)["digest"], path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            warn_once(str(error))
            return None

    def folders(self, stage: str) -> list[Path]:
        """Returns the directories of a stage that have a manifest, damaged or not, in order of their fingerprints."""
        return sorted(path.parent for path in (self.root / stage).glob(f"[!.]*/{MANIFEST}"))

    def verify(self) -> Iterator[tuple[str, str, list[str]]]:
        """Yields stage, fingerprint and damage of every artifact, with all files hashed."""
        for stage in self.stages():
            for path in self.folders(stage):
                yield stage, path.name, Artifact(stage, path.name, "", path).damage(full=True)

    def artifacts(self, stage: str) -> list[Artifact]:
        """Returns all artifacts of a stage, the newest first."""
        found = [artifact for path in self.folders(stage) if (artifact := self.find(stage, path.name))]
        return sorted(found, key=lambda artifact: artifact.age, reverse=True)

    def find_input(self, reference: dict[str, str]) -> Artifact | None:
        """Returns the artifact that a manifest names as an input: that of the fingerprint, or another with its content.

        None when neither is in the store.
        """
        exact = self.find(reference["stage"], reference["fingerprint"])
        if exact and exact.digest == reference["digest"]:
            return exact
        return next((item for item in self.artifacts(reference["stage"]) if item.digest == reference["digest"]), None)

    def ancestors(self, artifact: Artifact) -> list[Artifact]:
        """Returns what an artifact was made from, the earliest first, and itself; what is gone is left out."""
        found: dict[str, Artifact] = {}

        def visit(item: Artifact) -> None:
            for reference in item.manifest["inputs"]:
                parent = self.find_input(reference)
                if parent and parent.digest not in found:
                    visit(parent)
            found[item.digest] = item

        visit(artifact)
        return list(found.values())

    def stages(self) -> list[str]:
        """Returns the names of the stages that have a directory here."""
        return sorted(path.name for path in self.root.glob("*") if path.is_dir() and not path.name.startswith("."))

    def lock_path(self, stage: str, fingerprint: str) -> Path:
        """Returns the lock file that a builder of this fingerprint holds."""
        return self.root / stage / ".locks" / fingerprint

    def work_dir(self, stage: str, fingerprint: str) -> Path:
        """Returns where a build keeps what lets it resume; removed when the artifact is there."""
        return self.root / stage / f".partial-{fingerprint}"

    def new_out_dir(self, stage: str, fingerprint: str) -> Path:
        """Makes an empty directory to build into, in place of what a killed build of this fingerprint left."""
        for left in (self.root / stage).glob(f".tmp-{fingerprint}-*"):
            remove(left)
        path = self._temporary(stage, fingerprint)
        path.mkdir(parents=True)
        return path

    def _temporary(self, stage: str, fingerprint: str) -> Path:
        return self.root / stage / f".tmp-{fingerprint}-{uuid.uuid4().hex}"

    def remove_work(self, stage: str, fingerprint: str) -> None:
        """Removes what a build keeps to resume, though a process that nobody waits for may still write there."""
        remove_at_once(self.work_dir(stage, fingerprint), self._temporary(stage, fingerprint))

    def commit(
        self,
        out_dir: Path,
        key: Key,
        counts: Counts,
        *,
        undigested: Iterable[str] = (),
        provenance: dict[str, Any],
        facts: Mapping[str, str | None] | None = None,
    ) -> Artifact:
        """Turns a built directory into the artifact of `key`: hashes, manifest last, one rename.

        `undigested` names the files whose bytes carry times or speeds; they are checked like all others but do not
        enter the digest. Files of partitions have been hashed by those that made them. `facts` are what the stage says
        of its artifacts: `makes`, `label`. An artifact that is there already, sound and with the same digest, stays as
        it is: somebody may be reading it.
        """
        paths = sorted(path for path in out_dir.rglob("*") if path.is_file())
        hashed = known_entries(self.work_dir(key.stage, key.fingerprint))
        files = [
            {**hashed[file_id(path)], "path": str(path.relative_to(out_dir))}
            if file_id(path) in hashed
            else file_entry(path, out_dir)
            for path in paths
        ]
        digest = content_digest(entry for entry in files if entry["path"] not in set(undigested))
        provenance = {**provenance, "number": give_number(self.root / ORDER, f"{key.stage}/{key.fingerprint}")}
        there = self.find(key.stage, key.fingerprint)
        if there and there.digest == digest and not there.file_damage(full=True):
            there.note(**provenance)
            remove(out_dir)
            self.remove_work(key.stage, key.fingerprint)
            return there
        modified = {entry["path"]: path.stat().st_mtime_ns for entry, path in zip(files, paths, strict=True)}
        write_sealed(out_dir / PROVENANCE, {**provenance, "modified_ns": modified})
        manifest = {
            "stage": key.stage,
            **({"makes": None, "label": key.stage} | dict(facts or {})),
            "version": key.version,
            "fingerprint": key.fingerprint,
            "config": key.config,
            "inputs": key.inputs,
            "code": dataclasses.asdict(key.code),
            "external_files": key.external_files,
            "files": files,
            "counts": counts.to_dict(),
            "digest": digest,
        }
        write_sealed(out_dir / MANIFEST, manifest)
        self._publish(out_dir, self.path(key.stage, key.fingerprint))
        self.remove_work(key.stage, key.fingerprint)
        return Artifact(key.stage, key.fingerprint, digest, self.path(key.stage, key.fingerprint))

    def _publish(self, out_dir: Path, path: Path) -> None:
        replaced = out_dir.with_name(out_dir.name + "-replaced")
        if path.exists():
            os.rename(path, replaced)
        os.rename(out_dir, path)
        fsync_directory(path.parent)
        remove(replaced)


def give_number(folder: Path, name: str) -> int:
    """Returns a number above all that were given out in `folder`, on any machine, and notes that `name` has it."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(path.name) for path in folder.iterdir() if path.name.isdigit()), default=0)
    while not put_new(folder / f"{number:09d}", name.encode()):
        number += 1
    return number


def given_number(folder: Path, name: str) -> int:
    """Returns the last number that `name` got in `folder`, 0 where it has none."""
    numbered = (path for path in folder.glob("[0-9]*") if path.read_bytes() == name.encode())
    return max((int(path.name) for path in numbered), default=0)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of an artifact's directory.

    Raises ValueError for a damaged one, FileNotFoundError or NotADirectoryError where there is none.
    """
    path = folder / MANIFEST
    try:
        manifest = read_sealed(path)
        if not manifest.keys() >= MANIFEST_KEYS:
            raise ValueError(f"{path} lacks what a manifest says")
        return manifest
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or cannot be read: the artifact counts as never built; run again to rebuild it"
        ) from error


@functools.cache
def warn_once(message: str) -> None:
    """Logs a warning, the first time that it is given."""
    log.warning("%s", message)


def content_digest(files: Iterable[dict[str, Any]]) -> str:
    """Returns 32 hexadecimal digits over names and hashes of files."""
    hasher = hashlib.sha256()
    for entry in files:
        hasher.update(f"{entry['path']} {entry['sha256']}\n".encode())
    return hasher.hexdigest()[:32]
