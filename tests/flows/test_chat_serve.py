"""`chat` and `serve` as a user meets them: in processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.credentials import key
from tests.flows.chat_models import add_model, new_store
from tests.llm.serve.serving import QUESTION, call, tiny_model


def start(workspace: Path, *arguments: str) -> subprocess.Popen[str]:
    """`python -m flows ...`, running."""
    environment = {**os.environ, "SOURDOUGH_WORKSPACE": str(workspace), "MLFLOW_TRACKING_URI": "", "COLUMNS": "200"}
    command = [sys.executable, "-m", "flows", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    add_model(new_store(folder), "finetune", tiny_model(), {})
    return folder


def test_a_name_that_would_stand_in_pages_is_checked_first(workspace: Path) -> None:
    server = start(workspace, "serve", "--port", "0", "--name", "<b>bread")
    said, errors = server.communicate(timeout=60)
    assert (server.returncode, said) == (1, "")
    assert "--name is '<b>bread'; allowed: letters, digits" in errors


@pytest.mark.parametrize("ending", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_serve_gives_the_text_of_chat_and_ends_cleanly(workspace: Path, ending: signal.Signals) -> None:
    server = start(workspace, "serve", "--port", "0", "--name", "bread")
    assert server.stdout is not None
    question = QUESTION[0]["content"]
    chat = start(workspace, "chat", "-q", question, "--seed", "7", "--temperature", "1.5", "--top-p", "0.9")
    try:
        port = None
        while port is None:
            line = server.stdout.readline()
            assert line, server.communicate()
            found = re.search(r"API +http://127\.0\.0\.1:(\d+)/v1", line)
            port = int(found[1]) if found else None
        login = {"Authorization": f"Bearer {key(workspace, 'serve')}"}
        body = {"model": "bread", "messages": QUESTION, "seed": 7, "temperature": 1.5, "top_p": 0.9}
        status, content = call(port, "/v1/chat/completions", body, login)
    finally:
        server.send_signal(ending)
        rest, errors = server.communicate(timeout=60)
        said, _ = chat.communicate(timeout=60)
    text = content["choices"][0]["message"]["content"]
    assert status == 200
    assert said == re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text) + "\n"
    assert (server.returncode, errors) == (0, "")
    assert ("stopped" in rest) == (ending == signal.SIGINT)
