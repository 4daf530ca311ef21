"""Remakes requirements/: every package that `make setup` installs, at one version, with the hashes of all its files.

    make lock                                           # what pyproject.toml asks for; versions that still fit stay
    make lock ARGS="--upgrade-package prefect"          # the newest that fits of one package
    make lock ARGS="--find-links /path/to/wheels"       # add the CPU wheels of torch that lie in a folder

Needs uv and the package index. No other file names a version. **build.txt** holds what builds the packages that have no
wheel, **torch.txt** torch as the package index has it, on Linux with what its build for GPUs needs, **torch-cpu.txt**
the build for CPUs from torch's own index, **packages.txt** all others. Where torch's index cannot be reached, the
hashes that torch-cpu.txt lists of this version are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
CPU_INDEX = "https://download.pytorch.org/whl/cpu/torch/"
GROUPS = {"build": r"setuptools$", "torch": r"(torch|triton|nvidia-.*|cuda-.*)$", "packages": ""}
"""Files of FOLDER, each with the names of its packages; the first that matches."""
HEAD = "# Made by `make lock` from pyproject.toml; do not edit.\n"
PIN = re.compile(
    r"(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?: ; (?P<marker>[^\\\n]+?))? \\\n(?P<hashes>(?:.*--hash=.*\n?)+)"
)


def pins(text: str) -> list[re.Match[str]]:
    """Returns the pins of a requirements file, with PIN's groups; a name has several where markers tell them apart."""
    return list(PIN.finditer(text))


def hashes(pin: re.Match[str]) -> set[str]:
    """Returns the SHA-256 hashes that a pin allows."""
    return set(re.findall(r"sha256:([0-9a-f]{64})\b", pin["hashes"]))


def compiled(before: Iterable[re.Match[str]], upgrade: Iterable[str]) -> str:
    """Returns what uv pins for every platform; versions of before are kept where they fit, but those of `upgrade`.

    Hashes come anew from the index: uv would keep those of before, whoever wrote them."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "pyproject.toml",
        "--extra",
        "dev",
        "--universal",
        "--quiet",
    ]
    command += ["--generate-hashes", "--python-version", "3.11", "--no-header", "--no-annotate"]
    command += [f"--upgrade-package={name}" for name in upgrade]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requirements.txt"
        versions = [
            f"{pin['name']}=={pin['version']}" + (f" ; {pin['marker']}" if pin["marker"] else "") for pin in before
        ]
        path.write_text("\n".join(versions))
        subprocess.run([*command, "--output-file", path], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        return path.read_text()


def cpu_hashes(version: str, folder: Path | None, index: str = CPU_INDEX) -> set[str]:
    """Returns the hashes of a version's wheels (`2.13.0+cpu`) in a folder and in torch's index, if that is reached."""
    wheels = folder.glob(f"torch-{version}-*.whl") if folder else []
    found = {hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels}
    try:
        with urllib.request.urlopen(index, timeout=20) as response:
            links = re.findall(r'href="[^"#]*/torch-([^"#]*)#sha256=([0-9a-f]{64})"', response.read().decode())
    except OSError as error:
        print(f"{index} cannot be reached ({error}); the hashes listed of this version are kept", file=sys.stderr)
        return found
    return found | {digest for name, digest in links if urllib.parse.unquote(name).startswith(f"{version}-")}


def written(name: str, version: str, marker: str | None, allowed: Iterable[str]) -> str:
    """Returns the lines of a pin."""
    lines = [f"    --hash=sha256:{digest}" for digest in sorted(allowed)]
    return " \\\n".join([f"{name}=={version}" + (f" ; {marker}" if marker else ""), *lines]) + "\n"


def main() -> None:
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--find-links", type=Path, help="a folder with CPU wheels of torch")
    parser.add_argument(
        "--upgrade-package", action="append", default=[], metavar="NAME", help="may get a newer version"
    )
    options = parser.parse_args()
    before = {path.stem: path.read_text() for path in FOLDER.glob("*.txt")}
    now = pins(compiled(pins("".join(before[group] for group in GROUPS)), options.upgrade_package))
    files = dict.fromkeys(GROUPS, HEAD)
    for pin in now:
        group = next(group for group, names in GROUPS.items() if re.match(names, pin["name"]))
        files[group] += written(pin["name"], pin["version"], pin["marker"], hashes(pin))
    cpu = next(f"{pin['version']}+cpu" for pin in now if pin["name"] == "torch")
    kept = {digest for pin in pins(before["torch-cpu"]) if pin["version"] == cpu for digest in hashes(pin)}
    files["torch-cpu"] = HEAD + written("torch", cpu, None, kept | cpu_hashes(cpu, options.find_links))
    for group, text in files.items():
        (FOLDER / f"{group}.txt").write_text(text)
        print(f"requirements/{group}.txt: {len(pins(text))} packages")


if __name__ == "__main__":
    main()
