"""Models by name, and the conversation in the terminal."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import pytest
from rich.console import Console

from flows.chat import ChatSettings, Conversation, printable, talk
from flows.models import find_model, load_found
from llm.model.generate import Sampling
from llm.serve.answer import Answer, ContextOverflow, LoadedModel
from tasks.core.store import Artifact
from tests.flows.chat_models import add_model, new_store
from tests.llm.serve.serving import CONTEXT_LENGTH, QUESTION, saying, tiny_model

ASKED = QUESTION[0]["content"]
SETTINGS = ChatSettings(Sampling(temperature=1.2, seed=3), max_tokens=8)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return tiny_model()


@pytest.fixture
def models(tmp_path: Path, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> dict[str, Artifact]:
    """A workspace with a base model and two chat models, of which `new` was built last."""
    monkeypatch.setenv("SOURDOUGH_WORKSPACE", str(tmp_path))
    store = new_store(tmp_path)
    made = {"base": add_model(store, "pretrain", tiny, {})}
    made |= {name: add_model(store, "finetune", tiny, {"day": day}) for day, name in enumerate(("old", "new"), 1)}
    return made


def console() -> Console:
    return Console(file=io.StringIO(), width=200, highlight=False, soft_wrap=True)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_model_has_many_names(models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    new = models["new"]
    names = [
        None,
        "finetune",
        new.fingerprint,
        new.fingerprint[:6],
        f"finetune-{new.fingerprint[:6]}",
        f"finetune/{new.fingerprint}",
        str(new.path),
    ]
    assert {find_model(name).path for name in names} == {new.path}
    assert {find_model(name).name for name in names} == {f"finetune-{new.fingerprint[:12]}"}
    monkeypatch.chdir(models["base"].path)
    assert find_model(".").artifact == models["base"]


def test_an_unknown_name_lists_what_there_is(models: dict[str, Artifact], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no model 'champion'") as caught:
        find_model("champion")
    for model in models.values():
        assert f"{model.stage}-{model.fingerprint[:12]}  2026-01-0" in str(caught.value)
    for name in ("", "-", "evaluate", f"pretrain-{models['new'].fingerprint}"):
        with pytest.raises(ValueError, match="there is no model"):
            find_model(name)
    with pytest.raises(ValueError, match=r"is not a model directory: it has no model.safetensors"):
        find_model(str(tmp_path))


def test_a_beginning_that_several_share_is_refused(
    tmp_path: Path, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURDOUGH_WORKSPACE", str(tmp_path))
    made = [add_model(new_store(tmp_path), "finetune", tiny, {"day": day}) for day in range(1, 18)]
    by_digit = sorted(made, key=lambda model: model.fingerprint)  # 17 fingerprints begin with 16 digits
    shared = next(a.fingerprint[0] for a, b in itertools.pairwise(by_digit) if a.fingerprint[0] == b.fingerprint[0])
    with pytest.raises(ValueError, match=f"'{shared}' could be any of"):
        find_model(shared)


def test_a_directory_outside_of_the_store(models: dict[str, Artifact], tmp_path: Path) -> None:
    outside = tmp_path / "my-model"
    outside.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (outside / name).write_bytes((models["new"].path / name).read_bytes())
    found = find_model(str(outside))
    assert (found.name, found.artifact) == ("my-model", None)
    assert load_found(found, "another").name == "another"


def test_a_question_is_answered_with_the_given_settings(models: dict[str, Artifact], tiny: LoadedModel) -> None:
    out = console()
    talk(out, "finetune", ASKED, ChatSettings(Sampling(temperature=1.2, seed=3), system="Be brief.", max_tokens=8))
    prompt = tiny.chat_prompt([{"role": "system", "content": "Be brief."}, *QUESTION])
    answer = Answer(tiny, prompt, sampling=Sampling(temperature=1.2, seed=3), max_tokens=8).text()
    assert written(out) == printable(answer) + "\n"


def converse(
    monkeypatch: pytest.MonkeyPatch, lines: str, settings: ChatSettings = SETTINGS, model: str = "finetune"
) -> str:
    """What is shown when a person types these lines."""
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    out = console()
    talk(out, model, None, settings)
    return written(out)


def answer_to(tiny: LoadedModel, *messages: str) -> str:
    """The answer to a conversation with the settings of these tests; messages of person and model take turns."""
    roles = itertools.cycle(("user", "assistant"))
    prompt = tiny.chat_prompt([{"role": role, "content": text} for role, text in zip(roles, messages, strict=False)])
    return Answer(tiny, prompt, sampling=SETTINGS.sampling, max_tokens=SETTINGS.max_tokens).text()


def test_a_conversation_remembers(
    models: dict[str, Artifact], tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = answer_to(tiny, ASKED)
    second = answer_to(tiny, ASKED, first, "And?")
    assert first != second
    shown = converse(monkeypatch, f"{ASKED}\n\n   \nAnd?\n")
    assert shown.index(printable(first)) < shown.rindex(printable(second))


def test_what_a_terminal_sends_need_not_be_text(models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no UTF-8 come as halves of surrogate pairs."""
    assert converse(monkeypatch, "bread \udcff\n").count("you") == 2


def test_old_turns_go_when_the_context_is_full_and_it_is_said_once(tiny: LoadedModel) -> None:
    out = console()
    chat = Conversation(out, tiny, ChatSettings(SETTINGS.sampling, system="Be brief.", max_tokens=8))
    for _ in range(6):
        chat.say(ASKED)
        prompt = chat.loaded.chat_prompt(chat.with_system(chat.messages[:-1]))
        assert len(prompt) <= CONTEXT_LENGTH - 8
        assert [message["role"] for message in chat.messages] == ["user", "assistant"] * (len(chat.messages) // 2)
    assert 2 <= len(chat.messages) < 12
    assert written(out).count("the oldest turns are left out") == 1


def test_an_answer_without_a_limit_has_half_of_the_context(tiny: LoadedModel) -> None:
    chat = Conversation(console(), tiny, ChatSettings(SETTINGS.sampling))
    for _ in range(4):
        chat.say(ASKED)
        if len(chat.messages) > 2:
            assert len(tiny.chat_prompt(chat.messages[:-1])) <= CONTEXT_LENGTH // 2


def test_a_text_that_is_too_long_is_refused_and_the_conversation_goes_on(
    models: dict[str, Artifact], tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "bread " * CONTEXT_LENGTH
    shown = converse(monkeypatch, f"{long}\n{ASKED}\n")
    assert f"the model's context is {CONTEXT_LENGTH} tokens" in shown
    assert printable(answer_to(tiny, ASKED)) in shown
    with pytest.raises(ContextOverflow, match="shorten it"):
        talk(console(), "finetune", long, SETTINGS)


def test_an_interrupted_answer_counts_as_far_as_it_got(tiny: LoadedModel) -> None:
    loaded = tiny_model(ends=False)
    steps: list[int] = []

    def interrupt(*_: object) -> None:
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt

    loaded.model.norm.register_forward_hook(interrupt)
    out = console()
    chat = Conversation(out, loaded, SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        chat.say(ASKED)
    whole = Answer(tiny_model(ends=False), tiny.chat_prompt(QUESTION), sampling=SETTINGS.sampling, max_tokens=3).text()
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]
    assert whole.startswith(chat.messages[-1]["content"])
    assert written(out).endswith("\n")


def test_a_base_model_continues_and_it_is_said(
    models: dict[str, Artifact], tiny: LoadedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    out = console()
    talk(out, "pretrain", "The bread", SETTINGS)
    answer = Answer(tiny, tiny.text_prompt("The bread"), sampling=SETTINGS.sampling, max_tokens=8)
    assert written(out) == printable(answer.text()) + "\n"
    assert "is a base model: it continues a text instead of answering" in capsys.readouterr().err


def test_a_model_cannot_command_the_terminal() -> None:
    """Neither with control characters nor with the markup and emoji codes of the console."""
    said = "\x1b[2J\x9b31m\r[red]:smile:[/red]\n"
    out = console()
    Conversation(out, saying(said), ChatSettings(Sampling(temperature=0))).say(ASKED)
    assert written(out) == "\ufffd[2J\ufffd31m\ufffd[red]:smile:[/red]\n\n"
