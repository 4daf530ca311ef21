"""requirements/ holds every package that is installed, at one version, with hashes; another file stops `make setup`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.licences import needed
from benchmarks.lock import FOLDER, GROUPS, cpu_hashes, hashes, pins, written

ROOT = FOLDER.parent
FILES = {path.stem: path.read_text() for path in FOLDER.glob("*.txt")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
UNPINNED_EXTRAS = {"train-extractor"}
"""Extras that `make setup` does not install: only a script in benchmarks/ imports it."""


def active(group: str) -> dict[str, str]:
    """The versions of a file by name, of this platform and Python."""
    chosen = [pin for pin in pins(FILES[group]) if not pin["marker"] or Marker(pin["marker"]).evaluate()]
    assert len({pin["name"] for pin in chosen}) == len(chosen)
    return {pin["name"]: pin["version"] for pin in chosen}


def test_every_line_belongs_to_a_pin_with_hashes() -> None:
    assert set(FILES) == {*GROUPS, "torch-cpu"}
    for text in FILES.values():
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        found = pins(text)
        assert len(lines) == sum(1 + len(hashes(pin)) for pin in found)
        assert all(hashes(pin) for pin in found)
        assert [pin["name"] for pin in found if pin["name"] != canonicalize_name(pin["name"])] == []


def test_no_package_is_in_two_files_but_torch() -> None:
    names = [name for text in FILES.values() for name in {pin["name"] for pin in pins(text)}]
    assert sorted(name for name in set(names) if names.count(name) > 1) == ["torch"]
    assert active("torch-cpu") == {"torch": active("torch")["torch"] + "+cpu"}
    one, other = (
        {digest for pin in pins(FILES[name]) if pin["name"] == "torch" for digest in hashes(pin)}
        for name in ("torch", "torch-cpu")
    )
    assert not one & other


def test_what_pyproject_asks_for_is_pinned() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    pinned = active("build") | active("packages") | active("torch")
    asked = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    asked += [item for name in set(extras) - UNPINNED_EXTRAS for item in extras[name]]
    assert set(extras) > UNPINNED_EXTRAS
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), str(requirement)


def test_the_installed_packages_are_those_that_are_pinned() -> None:
    project = PROJECT["project"]
    found = needed([*project["dependencies"], *project["optional-dependencies"]["dev"]])
    torch = "torch-cpu" if version("torch").endswith("+cpu") else "torch"
    pinned = active("build") | active("packages") | active(torch)
    assert {name: item.version for name, item in found.items()} == pinned


def wheel(folder: Path, name: str, content: str = "") -> str:
    """Makes a wheel of one empty module and returns its hash."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", content)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Makes a checkout with the Makefile and, in place of the real packages, one small wheel in each file."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "requirements").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'small'\nversion = '1'\n")
    for group in FILES:
        name, release = ("torch", "1.0+cpu") if group == "torch-cpu" else (f"of_{group}".replace("-", "_"), "1.0")
        digest = wheel(tmp_path / "wheels", name) if group != "torch-cpu" else "0" * 64
        (tmp_path / f"requirements/{group}.txt").write_text(written(name, release, None, [digest]))
    return tmp_path


def set_up(checkout: Path) -> tuple[str, set[str]]:
    """Runs `make setup` with the checkout's wheels alone; returns what it said and the packages that it installed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE"))}
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(checkout / "wheels"), "PIP_CONFIG_FILE": os.devnull}
    made = subprocess.run(
        ["make", "setup", f"PYTHON={sys.executable}"], cwd=checkout, env=environment, capture_output=True, text=True
    )
    said = made.stdout + made.stderr
    assert (made.returncode == 0) == (checkout / ".venv/.installed").exists()
    return said, {path.stem for path in checkout.glob(".venv/lib/python*/site-packages/of_*.py")}


def test_setup_stops_at_a_file_with_another_hash(checkout: Path) -> None:
    wheel(checkout / "wheels", "of_packages", content="# changed by somebody")
    said, installed = set_up(checkout)
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in said
    assert installed == {"of_build"}
    digest = wheel(checkout / "wheels", "of_packages", content="# changed by us")
    (checkout / "requirements/packages.txt").write_text(written("of_packages", "1.0", None, [digest]))
    said, installed = set_up(checkout)
    assert "DO NOT MATCH" not in said
    assert installed == {"of_build", "of_packages", "of_torch"}


def test_setup_stops_at_a_package_without_a_hash(checkout: Path) -> None:
    with (checkout / "requirements/packages.txt").open("a") as file:
        file.write("of_torch==1.0\n")
    said, installed = set_up(checkout)
    assert "Hashes are required in --require-hashes mode" in said
    assert installed == {"of_build"}


def test_cpu_wheels_are_found_in_an_index_and_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page is as public copies of torch's index show it; the index itself was not asked."""
    one, other, mac = ("1" * 64, "2" * 64, "3" * 64)
    page = tmp_path / "index.html"
    page.write_text(
        f'<a href="https://download.pytorch.org/whl/cpu/torch-2.13.0%2Bcpu-cp312-cp312-linux.whl#sha256={one}">a</a>'
        f'<a href="/whl/cpu/torch-2.13.0%2Bcpu-cp313-cp313-linux.whl#sha256={other}">b</a>'
        f'<a href="/whl/cpu/torch-2.13.0-cp313-cp313-macosx.whl#sha256={mac}">c</a>'
        f'<a href="/whl/cpu/torch-2.13.01%2Bcpu-cp313-cp313-linux.whl#sha256={mac}">d</a>'
    )
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux.whl").write_bytes(b"wheel")
    of_file = hashlib.sha256(b"wheel").hexdigest()
    assert cpu_hashes("2.13.0+cpu", tmp_path, page.as_uri()) == {one, other, of_file}
    assert cpu_hashes("2.13.0+cpu", tmp_path, (tmp_path / "gone").as_uri()) == {of_file}
    assert "cannot be reached" in capsys.readouterr().err
