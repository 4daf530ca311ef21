"""The chat page in a real headless browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from llm.model.generate import Sampling
from llm.serve.answer import Answer, LoadedModel
from tests.llm.serve.browser import Page, browser
from tests.llm.serve.serving import KEY, QUESTION, saying, served, tiny_classifier, tiny_model

ASKED = QUESTION[0]["content"]
IDLE = "!document.querySelector('#send').disabled"
LAST = "[...document.querySelectorAll('.assistant p')].at(-1).textContent"
FOOT = "[...document.querySelectorAll('.assistant footer')].at(-1).textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


def ask(page: Page, text: str = ASKED, **settings: object) -> None:
    """Types a question, with values in fields of the settings, and waits for the end of the answer."""
    for name, value in settings.items():
        page.value(f"document.querySelector('#{name}').value = '{value}'")
    page.value("document.querySelector('#text').focus()")
    n_before = page.value("document.querySelectorAll('.user').length")
    page.write(text)
    page.wait(f"document.querySelectorAll('.user').length > {n_before} && {IDLE}")


def test_the_page_shows_the_answer_that_the_terminal_chat_gives(page: Page, port: int, chat: LoadedModel) -> None:
    page.open(f"http://127.0.0.1:{port}/?token={KEY}")
    assert page.value("document.title") == "tiny · Sourdough"
    ask(page, seed=5, temperature=1.5)
    expected = Answer(chat, chat.chat_prompt(QUESTION), sampling=Sampling(temperature=1.5, seed=5))
    assert page.value(LAST) == expected.text()
    assert re.fullmatch(r"\d+ tokens, first after [\d.]+ s, then \d+ tokens/s(; cut off.*)?", page.value(FOOT))
    assert page.complaints() == []
    assert {urlsplit(url).netloc for url in page.requested() if not url.startswith("data:")} == {f"127.0.0.1:{port}"}


def test_a_conversation_and_its_end(page: Page, port: int, chat: LoadedModel) -> None:
    page.open(f"http://127.0.0.1:{port}/?token={KEY}")
    ask(page, seed=5, max_tokens=4)
    first = page.value(LAST)
    ask(page, "And?", system="Be brief.")
    turns = [{"role": "system", "content": "Be brief."}, *QUESTION, {"role": "assistant", "content": first}]
    prompt = chat.chat_prompt([*turns, {"role": "user", "content": "And?"}])
    assert page.value(LAST) == Answer(chat, prompt, sampling=Sampling(temperature=0.7, seed=5), max_tokens=4).text()
    page.value("document.querySelector('#clear').click()")
    assert page.value("document.querySelectorAll('.turn').length") == 0
    ask(page, system="")
    assert page.value(LAST) == first


def test_what_the_model_and_the_person_write_is_never_markup(page: Page) -> None:
    markup = "<img src=x onerror=document.title=1><b>bold</b> &amp; <script>document.title=2</script>"
    with served(saying(markup)) as (_, port):
        page.open(f"http://127.0.0.1:{port}/?token={KEY}")
        ask(page, temperature=0)
        assert page.value(LAST) == markup
        ask(page, markup)
        assert page.value("[...document.querySelectorAll('.user p')].at(-1).textContent") == markup
        assert page.value("document.querySelectorAll('main img, main b, main script').length") == 0
        assert page.value("document.title") == "tiny · Sourdough"
        assert "'unsafe" not in page.value("fetch('/').then((r) => r.headers.get('Content-Security-Policy'))")


def test_an_answer_grows_and_can_be_stopped(page: Page) -> None:
    with served(tiny_model(context_length=8192, ends=False)) as (server, port):
        page.open(f"http://127.0.0.1:{port}/?token={KEY}")
        page.value("document.querySelector('#text').focus()")
        page.write(ASKED)
        short = page.wait("document.querySelector('.assistant p')?.textContent.length")
        assert page.wait(f"document.querySelector('.assistant p').textContent.length > {short}")
        assert page.value("document.querySelector('#log').getAttribute('aria-busy')") == "true"
        page.value("document.querySelector('#stop').click()")
        page.wait(IDLE)
        assert page.value(FOOT) == "stopped"
        page.wait("fetch('/v1/models').then((r) => r.ok)")
        while server.worker._n_unfinished:
            page.value("1")


def test_old_turns_go_when_the_context_is_full_and_errors_are_said(page: Page, port: int) -> None:
    page.open(f"http://127.0.0.1:{port}/?token={KEY}")
    for _ in range(3):
        ask(page, "bread " * 20, seed=1, max_tokens=20)
    assert "its oldest turns are left out" in page.value("document.querySelector('#note').textContent")
    assert page.value("document.querySelector('#error').textContent") == ""
    ask(page, "bread " * 200)
    assert "maximum context length is 96 tokens" in page.value("document.querySelector('#error').textContent")
    ask(page, temperature=9)
    assert "'temperature'" in page.value("document.querySelector('#error').textContent")


def test_a_base_model_continues_a_text(page: Page, base: LoadedModel) -> None:
    with served(base) as (_, port):
        page.open(f"http://127.0.0.1:{port}/?token={KEY}")
        assert "continues a text" in page.value("document.querySelector('#note').textContent")
        ask(page, "The bread", seed=2, max_tokens=30)
        sampling = Sampling(temperature=0.7, seed=2)
        assert page.value(LAST) == Answer(base, base.text_prompt("The bread"), sampling=sampling, max_tokens=30).text()


def test_a_classifier_labels_texts(page: Page) -> None:
    loaded = tiny_classifier()
    [[first, second]] = loaded.predictions([ASKED, "The bread"])
    with served(loaded) as (_, port):
        page.open(f"http://127.0.0.1:{port}/?token={KEY}")
        assert "Its labels are bread, cake, naïve café." in page.value("document.querySelector('#note').textContent")
        ask(page)
        assert page.value(LAST) == first.label
        assert f"{first.label} {100 * max(first.probabilities):.1f} %, " in page.value(FOOT)
        ask(page, "The bread")
        assert page.value(LAST) == second.label
        assert page.complaints() == []


def test_every_control_has_a_name(page: Page, port: int) -> None:
    page.open(f"http://127.0.0.1:{port}/?token={KEY}")
    page.value("document.querySelector('details').open = true")
    nodes = page.command("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in nodes if node["role"]["value"] in ("textbox", "spinbutton", "button", "log")]
    assert len(controls) >= 10
    assert [node for node in controls if not node.get("name", {}).get("value")] == []


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_in_dark(page: Page, port: int, scheme: str) -> None:
    """Contrast of at least 4.5, WCAG 2.2 level AA."""
    page.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.open(f"http://127.0.0.1:{port}/?token={KEY}")
    ask(page, max_tokens=3)

    def colour(selector: str, name: str) -> float:
        return luminance(page.value(f"getComputedStyle(document.querySelector('{selector}')).{name}"))

    behind = colour("body", "backgroundColor")
    assert (behind > 0.5) == (scheme == "light")
    pairs = [(colour("h1", "color"), behind), (colour("#note", "color"), behind), (colour("#error", "color"), behind)]
    for turn in (".user", ".assistant"):
        pairs += [(colour(f"{turn} {part}", "color"), colour(turn, "backgroundColor")) for part in ("p", "h2")]
    pairs.append((colour("#send", "color"), colour("#send", "backgroundColor")))
    ratios = [(max(pair) + 0.05) / (min(pair) + 0.05) for pair in pairs]
    assert min(ratios) >= 4.5, ratios
