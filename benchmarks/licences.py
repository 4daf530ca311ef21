"""The licences of the packages that `make setup` installs, as their own metadata says, and which of them are allowed.

python -m benchmarks.licences > docs/licences.md      # after a change of requirements/
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, PackageMetadata, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0"),
    *("CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "ZPL-2.1", "Zlib"),
    "MPL-2.0",  # copyleft of single files: they are used unchanged
}
"""Identifiers of SPDX, and BSD where the metadata does not say which."""
NAMES = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "GNU General Public License (GPL)": "GPL",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.1-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The MIT License (MIT)": "MIT",
}
"""Identifiers of what metadata writes in words."""
CUDA = "of NVIDIA's own terms; comes only where pip takes PyTorch's build for GPUs"
EXCEPTIONS = {
    "chardet": "LGPL: imported unchanged, and only to develop and test (a dependency of lm-eval)",
    "huey": "its file LICENSE is MIT's text; its metadata has no field for it",
    "skops": "its file LICENSE is MIT's text; its metadata has no field for it",
    "text-unidecode": "of two licences, Artistic and GPL, the first is taken",
    "cuda-toolkit": CUDA,
    "nvidia-cublas": CUDA,
    "nvidia-cuda-cupti": CUDA,
    "nvidia-cuda-nvrtc": CUDA,
    "nvidia-cuda-runtime": CUDA,
    "nvidia-cudnn-cu13": CUDA,
    "nvidia-cufft": CUDA,
    "nvidia-cufile": CUDA,
    "nvidia-curand": CUDA,
    "nvidia-cusolver": CUDA,
    "nvidia-cusparse": CUDA,
    "nvidia-cusparselt-cu13": CUDA,
    "nvidia-nccl-cu13": CUDA,
    "nvidia-nvjitlink": CUDA,
    "nvidia-nvshmem-cu13": CUDA,
    "nvidia-nvtx": CUDA,
}
"""Packages that are used though their metadata names no allowed licence, each with the reason."""
HEAD = """# Licences

What the packages that `make setup` installs on Linux with Python 3.11 say of themselves. Those under "to test" only
develop and test. A test holds this list, made by `python -m benchmarks.licences`, and refuses a package whose metadata
names no licence, or one that `benchmarks/licences.py` does not allow (GPL, AGPL and SSPL among them).

"""


def licence(metadata: PackageMetadata) -> str:
    """Returns a package's licence as an expression of SPDX: its field for that, its classifiers, or its text."""
    expression = metadata.get("License-Expression")
    if expression:
        return expression
    ends = [text.split(" :: ")[-1] for text in metadata.get_all("Classifier") or [] if text.startswith("License ::")]
    words = [text for text in ends if text not in ("OSI Approved", "DFSG approved")]
    words = words or (metadata.get("License") or "").strip().splitlines()[:1]
    return " AND ".join(NAMES.get(word, word) for word in words)


def is_allowed(expression: str) -> bool:
    """Returns whether an expression's licences are allowed: all of those that AND joins, one of those that OR joins."""
    while inner := re.search(r"\(([^()]*)\)", expression):
        choice = "MIT" if is_allowed(inner[1]) else "refused"
        expression = expression[: inner.start()] + choice + expression[inner.end() :]
    return any(all(part.strip() in ALLOWED for part in choice.split(" AND ")) for choice in expression.split(" OR "))


def needed(requirements: Iterable[str]) -> dict[str, Distribution]:
    """Returns the installed packages that requirements ask for, with all that these ask for in turn, by name."""
    found: dict[str, Distribution] = {}
    seen = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        found.setdefault(name, distribution(name))
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            asked = [Requirement(text) for text in found[name].requires or []]
            waiting += [item for item in asked if not item.marker or item.marker.evaluate({"extra": extra})]
    return found


def installed() -> tuple[dict[str, Distribution], dict[str, Distribution]]:
    """Returns the packages that run the program, and those that only develop and test it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runs = needed(project["dependencies"])
    every = needed([*project["dependencies"], *project["optional-dependencies"]["dev"]])
    return runs, {name: package for name, package in every.items() if name not in runs}


def refused(packages: Mapping[str, Distribution]) -> dict[str, str]:
    """Returns the packages without an allowed licence or a reason to be used all the same, each with its licence."""
    licences = {name: licence(package.metadata) for name, package in packages.items() if name not in EXCEPTIONS}
    return {name: text or "none" for name, text in licences.items() if not is_allowed(text)}


def table() -> str:
    """Returns docs/licences.md."""
    rows: dict[str, list[list[str]]] = defaultdict(lambda: [[], []])
    for column, packages in enumerate(installed()):
        for name in sorted(set(packages) - set(EXCEPTIONS)):
            rows[licence(packages[name].metadata)][column].append(name)
    lines = ["| licence | packages | to test |", "|---|---|---|"]
    lines += [f"| {text} | {', '.join(runs)} | {', '.join(tests)} |" for text, (runs, tests) in sorted(rows.items())]
    lines += ["", "| exception | why |", "|---|---|"]
    reasons = sorted(set(EXCEPTIONS.values()), key=list(EXCEPTIONS.values()).index)
    lines += [f"| {', '.join(name for name in EXCEPTIONS if EXCEPTIONS[name] == why)} | {why} |" for why in reasons]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
