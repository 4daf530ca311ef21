"""Where the files of a source lie: folders and patterns are resolved, what is elsewhere is fetched."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...files import atomic_path
from ...redact import public_url, redacted
from ..common.credential import PUBLIC, Access
from ..common.file_patterns import matching_files
from .config import KINDS, LOCAL_BUILDERS, SourceConfig
from .download import download, file_name


@dataclass(frozen=True)
class SourceFile:
    """A file of a source, or some records of it.

    `label` names it in the artifact, without anything of this machine; `location` is a path or an address; `n_bytes` is
    None where only fetching tells. `spans` are (first byte, byte after the last) of single records; () is all of it.
    """

    label: str
    location: str
    n_bytes: int | None = None
    spans: tuple[tuple[int, int], ...] = ()


def is_remote(location: str) -> bool:
    """Returns whether a location is an address rather than a path of this machine."""
    return "://" in location


def source_files(source: SourceConfig) -> list[SourceFile]:
    """Returns the files that the paths of a source name: those here in order of their labels, then the addresses."""
    return [
        *local_files(source),
        *(SourceFile(public_url(path), path) for path in sorted(source.paths) if is_remote(path)),
    ]


def local_files(source: SourceConfig) -> list[SourceFile]:
    """Returns the files on this machine that the paths of a source name, in order of their labels."""
    found: dict[str, Path] = {}
    for pattern in source.paths:
        if is_remote(pattern):
            continue
        for path in matching_files(f"{source.name}: paths", pattern, KINDS[source.kind].suffixes):
            label = _label(path, Path(pattern))
            if found.setdefault(label, path) != path:
                raise ValueError(
                    f"{source.name}: paths has two files called {label}: {found[label]} and {path}; "
                    "make two sources of them"
                )
    return [SourceFile(label, str(found[label]), found[label].stat().st_size) for label in sorted(found)]


def _label(file: Path, pattern: Path) -> str:
    """Returns the name of a file as its source's reader knows it; of an absolute path what the pattern leaves open."""
    if not file.is_absolute():
        return file.as_posix()
    fixed = pattern
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return file.relative_to(fixed.parent).as_posix()


def local_path(location: str, downloads: Path, access: Access = PUBLIC) -> Path:
    """Returns the file at a location on this machine, fetched into `downloads` if it is elsewhere.

    Raises ValueError if there is none, ConnectionError and OSError as `download` does.
    """
    if location.startswith(("http://", "https://")):
        return download(location, downloads, access=access).path
    if is_remote(location):
        return _copied(location, downloads)
    if not Path(location).is_file():
        raise ValueError(f"there is no file {location}")
    return Path(location)


def _copied(location: str, downloads: Path) -> Path:
    """Returns a file of another file system that fsspec knows (`s3://`, `gs://`), copied unless it is there already."""
    import fsspec

    path = downloads / file_name(location)
    try:
        system, inner = fsspec.core.url_to_fs(location)
        n_bytes = system.size(inner)
        if not (path.exists() and path.stat().st_size == n_bytes):
            downloads.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                system.get_file(inner, str(temporary))
                if temporary.stat().st_size != n_bytes:
                    raise ConnectionError(
                        f"{public_url(location)}: the transfer ended before {n_bytes:,} bytes had come"
                    )
    except (ImportError, ValueError, FileNotFoundError) as error:
        raise ValueError(f"{public_url(location)}: {redacted(str(error))}") from None
    return path


def external_files(sources: Iterable[SourceConfig]) -> list[Path]:
    """Returns all files on this machine that the sources read; raises ValueError where one is not there."""
    found = []
    for source in sources:
        named = [file.location for file in local_files(source)]
        named += [path for path in (source.path_list, source.index) if path and not is_remote(path)]
        if source.dataset and source.dataset not in LOCAL_BUILDERS and not source.is_on_hub:
            named += [str(path) for path in Path(source.dataset).rglob("*") if path.is_file()]
        if source.kind == "common-crawl" and not is_remote(source.base_url):
            named += [str(path) for path in Path(source.base_url).rglob("*") if path.is_file()]
        for name in sorted(named):
            if not Path(name).is_file():
                raise ValueError(f"{source.name}: there is no file {name}")
            found.append(Path(name))
    return found
