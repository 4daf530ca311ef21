"""Credentials are used and appear nowhere: canaries through every kind of source, and a search for them afterwards."""

from __future__ import annotations

import base64
import gzip
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.recipe import load_recipe
from tasks.core.store import Store
from tests.flows.canaries import SECRETS, contents, environment, hits, private_site, recipe
from tests.llm.data.sources.file_server import Site


def test_the_search_finds_a_canary_in_every_kind_of_file(tmp_path: Path) -> None:
    canary, user = SECRETS["CANARY_BEARER"], SECRETS["CANARY_BASIC"]
    database = sqlite3.connect(tmp_path / "a.db")
    database.execute("create table t (value text)")
    database.execute("insert into t values (?)", [f"x{canary}"])
    database.commit()
    database.close()
    (tmp_path / "a.gz").write_bytes(gzip.compress(canary.encode()))
    pq.write_table(pa.table({"url": [f"http://h/?{canary}"]}), tmp_path / "a.parquet", compression="zstd")
    (tmp_path / "a.txt").write_text(f"Basic {base64.b64encode(user.encode()).decode()}")
    (tmp_path / f"{canary}.txt").touch()
    assert len({hit.partition(": ")[0] for hit in hits(tmp_path)}) == 5


WRONG: list[tuple[dict[str, str], str]] = [
    ({"CANARY_BEARER": "c4n4ryBearer8Kq2-wrong"}, "403 .*check what the environment holds as CANARY_BEARER"),
    ({"CANARY_SIGNED": f"http://h/?sig={SECRETS['CANARY_SIGNATURE']}"}, "CANARY_SIGNED holds no signed address of"),
    ({"CANARY_BASIC": SECRETS["CANARY_BEARER"]}, "CANARY_BASIC is not of the form user:password"),
    ({"CANARY_HEADER": ""}, "credential.env is CANARY_HEADER, which is not set"),
    ({"CANARY_HEADER": "c4n4ryHeader3Zt9\nX: 1"}, "CANARY_HEADER holds line breaks"),
]
"""What the environment holds instead, and what the run that fails says."""


def test_a_run_and_those_that_fail_leave_no_credential(
    prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from prefect.settings import get_current_settings

    from flows.pipeline import pipeline
    from tasks.core.stage import StageError

    monkeypatch.setenv("SOURDOUGH_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with private_site() as site:
        path = recipe(tmp_path, site, with_hub=False)
        for name, value in environment(tmp_path, site).items():
            monkeypatch.setenv(name, value)
        pipeline(load_recipe(path), until_stage="clean")
        for number, (changed, said) in enumerate(WRONG):
            with monkeypatch.context() as patch:
                for name, value in changed.items():
                    patch.setenv(name, value)
                with pytest.raises(StageError, match=said):
                    pipeline(load_recipe(path, [f"ingest.snapshot=again{number}"]), until_stage="clean")
    (tmp_path / "output.txt").write_text("".join(capfd.readouterr()))
    url = get_current_settings().server.database.connection_url
    assert url is not None
    database = Path(url.get_secret_value().partition("///")[2])
    assert any(b"ingest: CANARY_HEADER" in text or b"canary" in text for text in contents(database.read_bytes())), (
        "it holds the runs"
    )
    assert hits(tmp_path, database.parent) == []
    require_all_read(tmp_path / "workspace", ["archives", "lines", "rows", "story", "web"])


def require_all_read(workspace: Path, sources: list[str]) -> None:
    """Asserts that each source was opened."""
    [artifact] = Store(workspace / "store").artifacts("ingest")
    read = [row["source"] for row in pq.read_table(artifact.path / "files.parquet").to_pylist()]
    assert sorted(set(read)) == sources


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_pipeline_with_its_views_leaves_no_credential(tmp_path: Path) -> None:
    with private_site() as site:
        done = run(tmp_path, site)
        assert done.returncode == 0, done.stdout + done.stderr
        for number, (changed, said) in enumerate(WRONG):
            failed = run(tmp_path, site, f"ingest.snapshot=again{number}", "--until", "instruct", **changed)
            assert failed.returncode == 1
            assert re.search(said, failed.stderr), failed.stderr
    assert hits(tmp_path) == []
    require_all_read(tmp_path / "workspace", ["archives", "hub", "lines", "rows", "story", "web"])
    kinds = {path.name for path in (tmp_path / "workspace").rglob("*")}
    assert kinds >= {"prefect.db", "mlflow.db", "report.html", "MODEL_CARD.md", "provenance.json", "manifest.json"}


def run(folder: Path, site: Site, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
    """`python -m flows run` of the recipe in a workspace in `folder`, with its output, which is searched too."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    variables = {**known, "SOURDOUGH_WORKSPACE": str(folder / "workspace"), **environment(folder, site), **changed}
    command = [sys.executable, "-m", "flows", "run", str(recipe(folder, site, with_hub=True)), *arguments]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=500)
    (folder / f"output-{len(list(folder.iterdir()))}.txt").write_text(done.stdout + done.stderr)
    return done
