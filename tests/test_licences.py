"""Every installed package has a licence that is allowed, or a reason of its own; docs/licences.md lists them."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

from benchmarks import licences
from benchmarks.lock import FOLDER, pins

RUNS, TESTS = licences.installed()
PINS = [pin for path in FOLDER.glob("*.txt") for pin in pins(path.read_text())]


def package(folder: Path, *lines: str) -> Distribution:
    """A package as pip leaves it, with these lines in its metadata."""
    (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", "Name: other", "Version: 1", *lines]) + "\n")
    return PathDistribution(folder)


def test_every_package_has_an_allowed_licence() -> None:
    assert len(RUNS) > 100
    assert licences.refused({**RUNS, **TESTS}) == {}


def test_each_exception_is_of_a_package_that_needs_one() -> None:
    assert set(licences.EXCEPTIONS) <= {pin["name"] for pin in PINS}
    excepted = {name: found for name, found in {**RUNS, **TESTS}.items() if name in licences.EXCEPTIONS}
    assert [name for name, found in excepted.items() if licences.is_allowed(licences.licence(found.metadata))] == []


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "none"),
        (["License-Expression: GPL-3.0-or-later"], "GPL-3.0-or-later"),
        (["License-Expression: MIT AND AGPL-3.0-only"], "MIT AND AGPL-3.0-only"),
        (["License: SSPL-1.0"], "SSPL-1.0"),
        (["Classifier: License :: OSI Approved"], "none"),
        (
            ["License: MIT", "Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)"],
            "GNU General Public License v3 (GPLv3)",
        ),
    ],
)
def test_a_package_with_another_licence_or_none_is_refused(tmp_path: Path, lines: list[str], expected: str) -> None:
    assert licences.refused({"other": package(tmp_path, *lines)}) == {"other": expected}


@pytest.mark.parametrize(
    "line",
    ["License-Expression: MIT", "License: Apache 2.0 License", "Classifier: License :: OSI Approved :: MIT License"],
)
def test_a_package_with_an_allowed_licence_is_taken(tmp_path: Path, line: str) -> None:
    assert licences.refused({"other": package(tmp_path, line)}) == {}


@pytest.mark.parametrize(
    ("expression", "is_allowed"),
    [
        ("MIT", True),
        ("MIT OR GPL-2.0-only", True),
        ("GPL-2.0-only OR MIT AND AGPL-3.0-only", False),
        ("MPL-2.0 AND (Apache-2.0 OR GPL-2.0-only)", True),
        ("MPL-2.0 AND (AGPL-3.0-only OR GPL-2.0-only)", False),
        ("(MIT OR GPL-2.0-only) AND SSPL-1.0", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("((MIT))", True),
        ("", False),
    ],
)
def test_expressions_of_spdx(expression: str, is_allowed: bool) -> None:
    assert licences.is_allowed(expression) == is_allowed


def test_the_list_is_that_of_the_packages() -> None:
    """Make it again with `python -m benchmarks.licences > docs/licences.md`.

    On other platforms and Pythons other packages are installed: those whose pins say where."""
    text = (licences.ROOT / "docs/licences.md").read_text()
    rows = re.findall(r"^\| (.+) \| (.*) \| (.*) \|$", text, re.MULTILINE)[1:]
    listed = {name: row[0] for row in rows for cell in row[1:] for name in cell.split(", ") if name}
    found = {name: licences.licence(item.metadata) for name, item in {**RUNS, **TESTS}.items()}
    excepted, elsewhere = set(licences.EXCEPTIONS), {pin["name"] for pin in PINS if pin["marker"]}
    assert (set(found) ^ set(listed)) - elsewhere == excepted & set(found)
    assert [name for name in listed if listed[name] != found.get(name, listed[name])] == []
    assert set(listed) < {pin["name"] for pin in PINS}
    assert text.startswith(licences.HEAD)
    assert text.split("| exception")[1] == licences.table().split("| exception")[1]
