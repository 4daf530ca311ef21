"""What the files of a model claim, compared with their size before anything is made of it.

Anyone may have written them: a config of a billion layers would keep us busy for hours, one of a trillion tokens would
take all memory. It needs no torch, so that a recipe can be checked in an instant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .shape import GPTConfig
from .size import n_params

MAX_JSON_BYTES = 4 << 20
"""Of a config, an index, a list of labels or the header of weights; those of 70 billion weights have 0.1 MB."""
MIN_TENSORS_OF_BLOCK = 10


def read_bounded(path: Path) -> Any:
    """Returns the value of a JSON file; raises ValueError that names it when it is none, or larger than such a file."""
    with open(path, "rb") as file:
        return _parsed(path, file.read(MAX_JSON_BYTES + 1))


def read_object(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; raises as `read_bounded`, and for any other value."""
    value = read_bounded(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {_kind(value)}; it must be a JSON object")
    return value


def tensor_names(path: Path) -> set[str]:
    """Returns what a safetensors file says is in it; raises OSError when its header is none or too large."""
    with open(path, "rb") as file:
        n_bytes, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
        if not 2 <= n_bytes <= min(size - 8, MAX_JSON_BYTES):
            raise OSError(
                f"{path} is damaged: its header is said to have {n_bytes:,} bytes, and the file has {size:,}; a header "
                f"has {MAX_JSON_BYTES:,} bytes at most"
            )
        try:
            header = json.loads(file.read(n_bytes).decode())
        except (ValueError, RecursionError) as error:
            raise OSError(f"{path} is damaged: its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise OSError(f"{path} is damaged: its header is {_kind(header)}, not a JSON object")
    return header.keys() - {"__metadata__"}


def require_weights(config: GPTConfig, files: Iterable[Path]) -> None:
    """Raises ValueError unless files can hold the weights of such a model: a byte for each, and each block's tensors.

    OSError when a file is missing or damaged.
    """
    paths = list(files)
    n_tensors, n_bytes = sum(len(tensor_names(path)) for path in paths), sum(path.stat().st_size for path in paths)
    if config.n_layers * MIN_TENSORS_OF_BLOCK > n_tensors or n_params(config) > n_bytes:
        raise ValueError(
            f"the weights do not fit config.json: it speaks of {config.n_layers:,} layers and {n_params(config):,} "
            f"weights, but there are {n_tensors:,} tensors in {n_bytes:,} bytes; give config and weights of one model"
        )


def _parsed(path: Path, content: bytes) -> Any:
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"{path} has more than {MAX_JSON_BYTES:,} bytes, which no file of its kind needs")
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it holds no JSON ({error})") from error


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", type(None): "null", bool: "true or false"}.get(type(value), "a number")
