"""Remakes requirements.lock and requirements-cuda.lock: the files that `make setup` installs, each with its hashes.

Versions stand in constraints.txt alone. `make lock` needs the package index and uv; torch's CPU wheels are looked for in
its own index, and in the folder that `--find-links` names.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CPU_INDEX = "https://download.pytorch.org/whl/cpu/torch/"
CUDA = re.compile(r"(nvidia-|cuda-|triton\b)")
"""Packages that torch brings where it is built for GPUs."""
HEAD = "# Made by `make lock` from pyproject.toml and constraints.txt; do not edit.\n"


def compiled() -> list[str]:
    """Returns the pins of uv with markers and hashes, one text each."""
    command = [
        "uv",
        "pip",
        "compile",
        "pyproject.toml",
        "--extra",
        "dev",
        "--generate-hashes",
        "--universal",
        "--quiet",
    ]
    command += ["--constraint", "constraints.txt", "--python-version", "3.11.7", "--no-header", "--no-annotate"]
    made = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return re.split(r"\n(?=[a-zA-Z])", made.strip())


def cpu_hashes(version: str, folder: Path | None) -> list[str]:
    """Returns the hashes of torch's CPU wheels: those of its index, if it can be reached, and those in a folder."""
    found = {
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder or Path()).glob(f"torch-{version}+cpu*.whl")
    }
    try:
        with urllib.request.urlopen(CPU_INDEX, timeout=20) as response:
            links = re.findall(r'href="[^"#]*/torch-([^"#]*)#sha256=([0-9a-f]{64})"', response.read().decode())
        found |= {digest for name, digest in links if name.startswith((f"{version}%2Bcpu", f"{version}+cpu"))}
    except (urllib.error.URLError, TimeoutError) as error:
        print(f"{CPU_INDEX} cannot be reached ({error}): its wheels are not listed", file=sys.stderr)
    return sorted(found)


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--find-links", type=Path, help="A folder with CPU wheels of torch.")
    folder = parser.parse_args().find_links
    pins = compiled()
    for i, pin in enumerate(pins):
        version = re.match(r"torch==([\d.]+)", pin)
        if version:
            pins[i] = pin + "".join(f" \\\n    --hash=sha256:{digest}" for digest in cpu_hashes(version[1], folder))
    for name, is_cuda in (("requirements.lock", False), ("requirements-cuda.lock", True)):
        chosen = [pin for pin in pins if bool(CUDA.match(pin)) == is_cuda]
        (ROOT / name).write_text(HEAD + "\n".join(chosen) + "\n")
        print(f"{name}: {len(chosen)} packages")


if __name__ == "__main__":
    main()
