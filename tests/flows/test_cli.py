"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flows.deploy import checked_schedule
from llm.files import write_json
from tests.flows.runs import TINY, TINY_STAGES, Run, post_to_prefect


def flows(environment: dict[str, str], workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m flows ...` with its output."""
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        env={**environment, "SOURDOUGH_WORKSPACE": str(workspace), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "conf/nowhere.yaml"], "there is no recipe conf/nowhere.yaml"),
        (["run", TINY, "clean.min_char=1"], "clean.min_char: unknown key; did you mean clean.min_chars?"),
        (["run", TINY, "--until", "cleann"], "there is no stage 'cleann'; the stages are crawl, clean"),
        (["run", TINY, "--from", "pretrain"], "run without --from first"),
        (["chat"], "there is no chat model in the store yet"),
        (["fields", "cleaning"], "there is no section 'cleaning'"),
    ],
)
def test_a_mistake_is_one_message_and_status_1(
    server_environment: dict[str, str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = flows(server_environment, tmp_path, *arguments)
    assert message in result.stderr, result.stdout + result.stderr
    assert result.returncode == 1
    assert "Traceback" not in result.stderr + result.stdout


def test_run_ends_with_time_counts_scores_answers_and_places(tiny: Run, server_environment: dict[str, str]) -> None:
    """Also where a dead proxy is set and nothing is exempt from it."""
    environment = {key: value for key, value in server_environment.items() if key.lower() != "no_proxy"}
    environment |= dict.fromkeys(["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"], "http://127.0.0.1:9")
    result = flows(environment, tiny.workspace, "run", TINY)
    assert result.returncode == 0, result.stderr
    for text in ("in the store", "80 urls -> 76", "bits per byte", "95 % interval", "report.html", "What does"):
        assert text in result.stdout, result.stdout


def test_verify_finds_damage(tiny: Run, server_environment: dict[str, str], tmp_path: Path) -> None:
    import shutil

    workspace = tmp_path / "copy"
    shutil.copytree(tiny.workspace, workspace)
    next(workspace.glob("store/shard/*/shards.json")).write_text("{}")
    manifest = next(workspace.glob("store/clean/*/manifest.json"))
    manifest.write_bytes(manifest.read_bytes().replace(b'"version": 2', b'"version": 3'))
    stranger = next(workspace.glob("store/dedup/*/manifest.json")).with_name(
        "documents-00000 (conflicted copy).parquet"
    )
    stranger.touch()
    result = flows(server_environment, workspace, "verify")
    assert result.returncode == 1
    assert "shards.json has 2 bytes instead of" in result.stdout
    assert f"{manifest} is damaged or cannot be read" in result.stdout
    assert f"{stranger} is not in the manifest: remove it" in result.stdout
    assert "3 damaged artifacts" in result.stderr


def test_the_model_and_training_load_without_prefect_or_mlflow() -> None:
    code = (
        "import sys, time; start = time.monotonic(); import llm.model.gpt, llm.train, llm.train.__main__\n"
        "loaded = {name.split('.')[0] for name in sys.modules} & {'prefect', 'mlflow', 'scrapy', 'pydantic'}\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_command_line_loads_nothing_heavy_before_it_knows_what_is_asked() -> None:
    heavy = {"numpy", "pyarrow", "torch", "prefect", "mlflow", "starlette", "pydantic"}
    names = "{name.partition('.')[0] for name in sys.modules}"
    code = f"import sys, flows.__main__\nloaded = {names} & {heavy}\nassert not loaded, loaded"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def readme_commands() -> list[list[str]]:
    """Every `python -m flows ...` line of the README."""
    lines = re.findall(r"^python -m flows (.*?)(?:\s+#.*)?$", Path("README.md").read_text(), flags=re.MULTILINE)
    return [shlex.split(line) for line in lines]


OWN_TESTS = {"classify", "scaling", "serve", "track", "ui"}
SHOWN = {
    "explain": r"clean +would run +config min_chars: 200 -> 300",
    "plan": r"(?s)pretrain +in the store +[\d,]+ parameters, 12,288 tokens .* FLOPs.*\nn_steps 12 \(set\)"
    r"\noptimizer\.learning_rate 0\.0056 \(from the width, 32\)|2 h on cpu: [\s\S]*set: pretrain\.model\.size=",
    "fields": r"pretrain\.model\.size = 'demo'",
    "list": r"crawl +[0-9a-f]{12}",
    "verify": r"report [0-9a-f]{12}  sound",
    "chat": r"\S",
    "compare": r"training tokens",
    "evaluation": r"measured +\S+",
    "dropped": r"too short +http://\S+ +\d+ characters",
    "export": r"written to",
    "run": r"bits per byte|in the store",
    "stage": r"clean ",
}
"""What the output of each command must hold."""


def test_the_readmes_commands_do_what_they_say(tiny: Run, server_environment: dict[str, str], tmp_path: Path) -> None:
    """Each runs over the tiny recipe instead of the demo; those of `OWN_TESTS` have tests of their own."""
    replaced = {"conf/demo.yaml": TINY, "pretrain.n_steps=500": "pretrain.n_steps=12", "my-model": str(tmp_path / "hf")}
    replaced |= own_instructions(tmp_path)
    workspace = shutil.copytree(tiny.workspace, tmp_path / "workspace")
    commands = [command for command in readme_commands() if command[0] not in OWN_TESTS]
    assert {command[0] for command in commands} == set(SHOWN)
    for command in commands:
        words = [replaced.get(word, word) for word in command]
        words = [
            str(tiny.artifacts["finetune"].path) if word.startswith("workspace/store/") else word for word in words
        ]
        result = flows(server_environment, workspace, *words)
        assert result.returncode == 0, f"{command}: {result.stderr}"
        assert re.search(SHOWN[command[0]], result.stdout), f"{command}: {result.stdout}"


def own_instructions(folder: Path) -> dict[str, str]:
    """Instruction data, and a recipe that makes the tiny model of it; by the words of the README that they replace."""
    records = [{"instruction": f"What is {n} and one?", "input": "", "output": f"It is {n + 1}."} for n in range(40)]
    write_json(folder / "my-data.json", records)
    sources = [{"kind": "alpaca", "path": "given-by-the-command.json"}]
    write_json(folder / "own.yaml", {"extends": str(Path(TINY).resolve()), "instruct": {"sources": sources}})
    path = "instruct.sources.0.path="
    return {
        "conf/instruct-json.yaml": str(folder / "own.yaml"),
        f"{path}my-data.json": f"{path}{folder / 'my-data.json'}",
    }


def test_track_sends_what_mlflow_has_missed(tiny: Run, server_environment: dict[str, str], tmp_path: Path) -> None:
    workspace = tmp_path / "copy"
    shutil.copytree(tiny.workspace, workspace)
    environment = {**server_environment, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    assert f"{len(TINY_STAGES)} artifacts sent to MLflow" in flows(environment, workspace, "track").stdout
    assert "0 artifacts sent to MLflow" in flows(environment, workspace, "track").stdout
    unreachable = {**environment, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    shutil.copytree(tiny.workspace, tmp_path / "other")
    result = flows(unreachable, tmp_path / "other", "track")
    assert (result.returncode, "cannot be reached at http://127.0.0.1:9" in result.stderr) == (1, True), result.stderr


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_ui_offers_the_pipeline_every_stage_and_a_schedule(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    environment = {**os.environ, "SOURDOUGH_WORKSPACE": str(tmp_path), "MLFLOW_TRACKING_URI": ""}
    command = [
        sys.executable,
        "-m",
        "flows",
        "ui",
        TINY,
        "--prefect-port",
        str(ports[0]),
        "--mlflow-port",
        str(ports[1]),
        "--timezone",
        "Asia/Kathmandu",
    ]
    with open(tmp_path / "output.txt", "wb") as output:
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        deployments: list[dict[str, Any]] = []
        deadline = time.monotonic() + 120
        while len(deployments) < len(TINY_STAGES) + 2:
            assert time.monotonic() < deadline, (tmp_path / "output.txt").read_text()
            assert child.poll() is None, (tmp_path / "output.txt").read_text()
            time.sleep(0.5)
            if (tmp_path / "servers.json").exists():
                deployments = post_to_prefect(tmp_path, "/deployments/filter")
    finally:
        child.terminate()
        child.wait(60)
    entrypoints = {item["entrypoint"] for item in deployments}
    stages = {f"flows.stages.{stage}" for stage in TINY_STAGES}
    assert entrypoints == {"flows.pipeline.pipeline", "flows.evaluation.evaluation", *stages}
    scheduled = [item for item in deployments if item["schedules"]]
    assert [item["entrypoint"] for item in scheduled] == ["flows.evaluation.evaluation"]
    [planned] = [item["schedule"] for item in scheduled[0]["schedules"]]
    assert (planned["cron"], planned["timezone"]) == ("0 3 * * *", "Asia/Kathmandu")
    schema = next(item for item in deployments if item["name"] == "pipeline")["parameter_openapi_schema"]
    field = schema["definitions"]["CleanConfig"]["properties"]["min_chars"]
    assert field["minimum"] == 0
    assert "shorter than this" in field["description"]
    assert not (tmp_path / "servers.json").exists()
    for port in ports:
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0, "a server still runs"


@pytest.mark.parametrize("cron", ["", "0 3 * *", "99 3 * * *", "0 0 31 2 *", "at three"])
def test_a_schedule_that_is_none_is_refused_before_anything_starts(cron: str) -> None:
    with pytest.raises(ValueError, match=r"--cron is .*; it has five fields .* such as '0 3 \* \* \*'"):
        checked_schedule(cron, "Europe/Berlin")


@pytest.mark.parametrize("name", ["Mars/X", "../../etc/passwd", "/etc/localtime", "x" * 5000, "a\0b"])
def test_a_time_zone_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"--timezone is .*; give one by its IANA name, such as --timezone Europe"):
        checked_schedule("0 3 * * *", name)


def test_a_schedule_is_in_the_time_zone_of_the_machine_unless_it_says_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked_schedule("*/5 1-3 1,15 JAN SUN", "Asia/Kathmandu") == ("*/5 1-3 1,15 JAN SUN", "Asia/Kathmandu")
    monkeypatch.setenv("TZ", "America/St_Johns")
    assert checked_schedule("0 3 * * *", None) == ("0 3 * * *", "America/St_Johns")


def test_the_interface_starts_no_server_for_a_wrong_option(tmp_path: Path) -> None:
    environment = {**os.environ, "SOURDOUGH_WORKSPACE": str(tmp_path)}
    command = [sys.executable, "-m", "flows", "ui", TINY, "--cron", "0 3 * *"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error --cron is '0 3 * *'")
    assert not list(tmp_path.rglob("*server.log"))
