"""The whole pipeline over the test site: known answers, caching, workers, and what is wrong is named."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.pipeline import build_model, new_session, pipeline
from flows.recipe import load_recipe
from llm.files import read_table
from llm.model.files import load_model
from tasks.core.session import Outcome, running
from tasks.core.stage import StageError
from tests.flows.runs import TINY, TINY_STAGES, Run, run_recipe


def explain(workspace: Path, *overrides: str) -> dict[str, Outcome]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURDOUGH_WORKSPACE", str(workspace))
        recipe = load_recipe(TINY, overrides)
        session = new_session(recipe, execute=False)
        with running(session):
            build_model(recipe)
    return {outcome.stage: outcome for outcome in session.outcomes}


def test_every_stage_leaves_a_sound_artifact(tiny: Run) -> None:
    assert tuple(tiny.artifacts) == TINY_STAGES
    for artifact in tiny.artifacts.values():
        assert artifact.damage(full=True) == []
        assert artifact.counts.n_in == artifact.counts.n_out + sum(artifact.counts.dropped.values())


def test_the_counts_are_those_that_were_planted(tiny: Run) -> None:
    crawled = tiny.artifacts["crawl"].counts
    assert (crawled.n_in, crawled.n_out) == (80, 76)
    assert dict(crawled.dropped) == {"http 404": 1, "not html": 2, "robots": 1}
    cleaned = tiny.artifacts["clean"].counts
    assert dict(cleaned.dropped) == {"language": 1, "mostly links": 1, "too short": 4}
    assert dict(tiny.artifacts["dedup"].counts.dropped) == {"exact duplicate": 2, "near duplicate": 3}


def test_counts_agree_from_stage_to_stage(tiny: Run) -> None:
    counts = {stage: artifact.counts for stage, artifact in tiny.artifacts.items()}
    assert counts["clean"].n_in == counts["crawl"].n_out
    assert counts["dedup"].n_in == counts["clean"].n_out
    assert counts["tokenizer"].n_in == counts["shard"].n_in == counts["dedup"].n_out


def test_no_held_out_document_is_trained_on(tiny: Run) -> None:
    documents = [row for path in tiny.artifacts["dedup"].files("documents-*") for row in read_table(path).to_pylist()]
    held_out = {row["id"] for row in documents if row["held_out"]}
    shards = tiny.artifacts["shard"]
    ids = {
        split: {
            name
            for path in shards.files(f"{split}-*.parquet")
            for names in read_table(path)["document_ids"].to_pylist()
            for name in names
        }
        for split in ("train", "val")
    }
    assert ids["val"] == held_out
    assert ids["train"] == {row["id"] for row in documents} - held_out
    examples = tiny.artifacts["instruct"]
    train = read_table(examples.path / "train.parquet").to_pylist()
    assert held_out.isdisjoint(row["document_id"] for row in train)
    benchmark = [json.loads(line) for line in (examples.path / "benchmark.jsonl").read_text().splitlines()]
    trained_answers = {row["messages"][-1]["content"] for row in train}
    assert trained_answers.isdisjoint(item["choices"][item["gold"]] for item in benchmark)


def test_models_load_and_scores_are_there(tiny: Run) -> None:
    for stage in ("pretrain", "finetune"):
        assert load_model(tiny.artifacts[stage].path).config.context_length == 64
    rows = read_table(tiny.artifacts["evaluate"].path / "scores.parquet").to_pylist()
    scores = {(row["model"], row["metric"]): row for row in rows}
    assert scores["base", "bits per byte"]["low"] < scores["base", "bits per byte"]["high"]
    assert scores["chat", "accuracy"]["chance"] == 0.25
    assert "xz -9" in {row["model"] for row in rows}
    page = (tiny.artifacts["report"].path / "report.html").read_text()
    assert all(stage in page for stage in TINY_STAGES if stage != "report")


def test_a_second_run_builds_nothing(tiny: Run) -> None:
    def times() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in tiny.workspace.rglob("store/*/*/*") if path.is_file()}

    before = times()
    assert run_recipe(tiny.workspace).digests() == tiny.digests()
    assert times() == before
    assert {outcome.action for outcome in explain(tiny.workspace).values()} == {"hit"}


def test_four_workers_make_the_same_bytes(tiny: Run, tmp_path: Path) -> None:
    assert run_recipe(tmp_path, "engine.n_workers=4", "crawl.n_connections=3").digests() == tiny.digests()


def test_a_changed_field_reruns_its_stage_and_what_its_output_changes(tiny: Run, tmp_path: Path) -> None:
    workspace = tmp_path / "copy"
    shutil.copytree(tiny.workspace, workspace)
    outcomes = explain(workspace, "clean.min_chars=199")
    assert outcomes["crawl"].action == "hit"
    assert outcomes["clean"].reasons == ["config min_chars: 200 -> 199"]
    assert {outcomes[stage].action for stage in TINY_STAGES[2:]} == {"wait"}
    # Keeps no other page. What was dropped names the limit, so dedup runs too, makes the same, and there it stops.
    again = run_recipe(workspace, "clean.min_chars=199")
    assert {stage for stage, digest in again.digests().items() if digest != tiny.digests()[stage]} == {
        "clean",
        "report",
    }
    built = {
        stage
        for stage, artifact in again.artifacts.items()
        if artifact.fingerprint != tiny.artifacts[stage].fingerprint
    }
    assert built == {"clean", "dedup", "report"}


def test_a_damaged_artifact_is_named_and_built_again(tiny: Run, tmp_path: Path) -> None:
    workspace = tmp_path / "copy"
    shutil.copytree(tiny.workspace, workspace)
    path = next((workspace / "store" / "dedup").glob("*/documents-00000.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    outcomes = explain(workspace)
    assert outcomes["dedup"].reasons == ["damaged: documents-00000.parquet has changed since it was built"]
    assert run_recipe(workspace).digests() == tiny.digests()


def test_a_single_stage_runs_again_with_its_inputs_as_they_are(tiny: Run, tmp_path: Path) -> None:
    from flows.stages import stage_flows

    workspace = tmp_path / "copy"
    shutil.copytree(tiny.workspace, workspace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURDOUGH_WORKSPACE", str(workspace))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        config = load_recipe(TINY, ["clean.min_chars=400"]).clean
        made = stage_flows(load_recipe(TINY))["clean"](config, TINY)
    assert set(made) == {"clean"}
    assert Path(made["clean"]).name != tiny.artifacts["clean"].fingerprint


def test_the_scheduled_evaluation_measures_again(tiny: Run, tmp_path: Path) -> None:
    from flows.evaluation import evaluation

    workspace = tmp_path / "copy"
    shutil.copytree(tiny.workspace, workspace)
    before = (workspace / "store" / "evaluate").stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURDOUGH_WORKSPACE", str(workspace))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        figures = evaluation(TINY)
    assert figures == dict(tiny.artifacts["evaluate"].counts.figures)
    assert (workspace / "store" / "evaluate").stat().st_mtime_ns > before


@contextmanager
def failing_site() -> Iterator[int]:
    """A site that answers everything with status 500."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500)

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def without_site(port: int) -> list[str]:
    return [
        f"crawl.seeds=[http://127.0.0.1:{port}/]",
        f"crawl.allow_private=[127.0.0.1:{port}]",
        "crawl.site=null",
        "crawl.max_retries=0",
    ]


@pytest.mark.usefixtures("prefect_server")
def test_an_unreachable_seed_and_a_failing_site_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.core.stage import STAGES

    monkeypatch.setattr(STAGES["crawl"]._task, "retry_delay_seconds", 0)
    with pytest.raises(
        StageError, match=r"^crawl: crawl\.seeds: no page could be stored from http://127\.0\.0\.1:9/.*[Cc]heck"
    ):
        run_recipe(tmp_path, *without_site(9))
    with failing_site() as port, pytest.raises(StageError, match=r"^crawl: .*500.*"):
        run_recipe(tmp_path, *without_site(port))
    assert not [path for path in (tmp_path / "store" / "crawl").iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("clean.min_chars=1000000", r"^clean: nothing is left of 76 pages .*too short"),
        ("tokenizer.vocab_size=60000", r"^tokenizer: .*vocab_size"),
        ("shard.context_length=102400 pretrain.batch_tokens=102400", r"^shard: .*context_length"),
        ("instruct.min_answer_chars=450", r"^instruct: "),
    ],
)
def test_too_little_or_unfit_input_is_named(tiny: Run, tmp_path: Path, override: str, message: str) -> None:
    workspace = tmp_path / "copy"
    shutil.copytree(tiny.workspace, workspace)
    before = sorted(workspace.glob("store/*/*/manifest.json"))
    with pytest.raises(StageError, match=message):
        run_recipe(workspace, *override.split())
    assert set(before) <= set(workspace.glob("store/*/*/manifest.json"))
    assert not list(workspace.glob("store/*/.tmp*"))


def test_a_comment_in_llm_reruns_nothing_and_a_changed_line_names_its_module(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.core import fingerprint

    repository = tmp_path / "repository"
    for package in ("llm", "tasks"):
        shutil.copytree(package, repository / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "REPOSITORY", repository)
    module = repository / "llm" / "data" / "dedup" / "candidates.py"
    module.write_text(
        "# a comment\n" + module.read_text().replace("MAX_NEIGHBOURS = 16", "MAX_NEIGHBOURS = (16)  # why")
    )
    assert {outcome.action for outcome in explain(tiny.workspace).values()} == {"hit"}
    module.write_text(module.read_text().replace("MAX_NEIGHBOURS = (16)", "MAX_NEIGHBOURS = 17"))
    outcomes = explain(tiny.workspace)
    assert outcomes["clean"].action == "hit"
    assert (outcomes["dedup"].action, outcomes["dedup"].reasons) == (
        "run",
        ["code of llm.data.dedup.candidates has changed"],
    )
    assert outcomes["tokenizer"].reasons == ["runs if the output of decontaminate changes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"from_stage": "pretrain", "force": ("crawl",)}, "--force crawl does not fit --from pretrain"),
        ({"from_stage": "pretrain", "until_stage": "clean"}, "--until clean does not fit --from pretrain"),
        ({"force": ("crawll",)}, "there is no stage 'crawll'; the stages are crawl, clean"),
    ],
)
def test_stages_that_do_not_fit_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_session(load_recipe(TINY), execute=False, **options)


def test_overrides_of_other_sections_count_when_a_single_stage_runs(tiny: Run) -> None:
    from flows.stages import stage_flows

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURDOUGH_WORKSPACE", str(tiny.workspace))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        with pytest.raises(ValueError, match=r"pretrain: there is no artifact for this recipe"):
            stage_flows(load_recipe(TINY))["evaluate"](load_recipe(TINY).evaluate, TINY, ("pretrain.n_steps=13",))


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_texts_become_an_evaluated_base_model_and_a_changed_file_is_noticed(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"Loaf {i} rises slowly and is baked well. " * (4 + i % 7)}) for i in range(120)]
    notes = tmp_path / "notes.jsonl"
    notes.write_text("\n".join(lines) + "\n{broken\n")
    tiny = yaml.safe_load(Path("tests/flows/tiny.yaml").read_text())
    sources = {"sources": [{"name": "notes", "kind": "jsonl", "paths": [str(notes)]}]}
    changed = {"name": "notes", "ingest": sources, "instruct": None, "finetune": None}
    clean = {"min_chars": 50, "held_out_fraction": 0.2, "canary_check": {"max_reason_share": 1, "min_recall": 0}}
    recipe = {key: value for key, value in tiny.items() if key not in {"crawl", "clean"}} | changed | {"clean": clean}
    recipe["tokenizer"], recipe["dedup"] = {"vocab_size": 270}, {"canary_check": clean["canary_check"]}
    path = tmp_path / "notes.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURDOUGH_WORKSPACE", str(tmp_path / "workspace"))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        made = pipeline(load_recipe(path))
        scores = read_table(Path(made["evaluate"]) / "scores.parquet").to_pylist()
        assert {row["model"] for row in scores} == {"xz -9", "base"}
        assert "notes.jsonl" in (Path(made["report"]) / "report.html").read_text()
        notes.write_text(notes.read_text() + lines[0])
        session = new_session(load_recipe(path), execute=False)
        with running(session):
            build_model(load_recipe(path))
    assert [reason for reason in session.outcomes[0].reasons if "notes.jsonl has changed" in reason]
