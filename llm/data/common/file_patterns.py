"""The files that a recipe names: by a path, by a folder, or by a pattern."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path


def matching_files(field: str, pattern: str, suffixes: tuple[str, ...]) -> list[Path]:
    """Returns the file of a path, all files in and below a folder, or those that match a pattern with `*`, in order.

    Of a folder only files with one of the `suffixes` count, and nothing whose name, or a folder's above it, begins with
    a dot. Raises ValueError that names `field` where there is no file.
    """
    path = Path(pattern)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        below = sorted(file for file in path.rglob("*") if file.name.lower().endswith(suffixes) and file.is_file())
        files = [file for file in below if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    else:
        files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
    if not files:
        what = f"no file that ends in {', '.join(suffixes)} in" if path.is_dir() else "no such file:"
        raise ValueError(
            f"{field} has {pattern!r}, but there is {what} {path.absolute()}; name a file, a folder or a pattern"
        )
    return files


def all_matching_files(field: str, patterns: Iterable[str], suffixes: tuple[str, ...]) -> list[Path]:
    """Returns the files of several paths, folders and patterns, in their order, each once; see `matching_files`."""
    return list(dict.fromkeys(path for pattern in patterns for path in matching_files(field, pattern, suffixes)))
