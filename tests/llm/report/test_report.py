from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from selectolax.lexbor import LexborHTMLParser, LexborNode

import llm.report
from llm.counts import Counts
from llm.files import read_json, write_json
from llm.report.report import (
    TEMPLATES,
    ReportConfig,
    StageSummary,
    compact,
    cut,
    figure,
    spaced,
    write_report,
)

CONFIG = ReportConfig(attention_tokens=6)

PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'\" onmouseover=alert(1) style=color:red x='",
    "</style></title></textarea></pre></svg><script>alert(1)</script>",
    "]]><svg onload=alert(1)>",
    "javascript:alert(1)",
    "<!-- --><!--",
    "{{ 7 * 7 }}{% for x in y %}",
    "&lt;b&gt; &amp; &#60;b&#62;",
    "<a href=javascript:alert(1)>x</a><iframe src=//evil></iframe><base href=//evil>",
    "abc\u202edef\x00\x1b[31m\ud7ff",
]


def page(stages: list[StageSummary], out_dir: Path, config: ReportConfig = CONFIG) -> str:
    out_dir.mkdir()
    write_report(stages, out_dir, config)
    return (out_dir / "report.html").read_text(encoding="utf-8")


def elements(html: str) -> list[LexborNode]:
    root = LexborHTMLParser(html).root
    assert root is not None
    return [node for node in root.traverse() if not node.tag.startswith("-")]


def skeleton(html: str) -> list[tuple[str, tuple[str, ...]]]:
    """Every element with the names of its attributes, in order; where tokens stand only what kinds there are."""
    tree = LexborHTMLParser(html)
    cells = {(node.tag, tuple(node.attributes)) for node in tree.css(".attention *, .example *")}
    for node in tree.css(".attention *, .example *"):
        node.decompose()
    return [*((node.tag, tuple(node.attributes)) for node in elements(tree.html or "")), *sorted(cells)]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_text_from_outside_is_only_ever_text(payload, make_run, tmp_path):
    letters = "x" * len(payload)  # of the same length, so that the histogram of lengths is the same
    harmless = page(make_run(tmp_path / "harmless", text=letters), tmp_path / "harmless-out")
    html = page(make_run(tmp_path / "hostile", text=payload), tmp_path / "out", replace(CONFIG, title=payload))
    assert skeleton(html) == skeleton(harmless)
    for node in elements(html):
        for name, value in node.attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "style", "action", "formaction", "srcdoc")
            if name == "href":
                assert re.fullmatch(r"#[\w-]+", value or "")
    tree = LexborHTMLParser(html)
    shown = payload.replace("\u202e", "\ufffd").replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    assert tree.css_first("h1").text() == shown
    assert tree.css_first("title").text() == shown
    assert [node.text() for node in tree.css(".answer .question")] == [shown] * 3
    assert f"source {shown}" in [node.text() for node in tree.css("#scores td")]
    assert shown in [node.text() for node in tree.css("#training td")]
    assert shown in tree.css_first("#training pre").text()
    assert tree.css_first("#tokenizer td").text() == shown.replace(" ", "·")
    dropped = " ".join(node.text() for node in tree.css("#data details li"))
    assert f"http://docs/{shown}/dropped" in dropped
    assert shown in [node.text() for node in tree.css("#data details li strong")]


def test_nothing_on_the_page_is_fetched_or_run(make_run, tmp_path):
    html = page(make_run(tmp_path / "run"), tmp_path / "out")
    tags = Counter(node.tag for node in elements(html))
    assert not tags.keys() & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "image",
        "foreignobject",
    }
    assert not re.search(r"url\((?!#)|@import|https?://(?!docs/)", html)
    ids = [node.attributes["id"] for node in elements(html) if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    targets = {node.attributes["href"].removeprefix("#") for node in elements(html) if "href" in node.attributes}
    assert targets <= set(ids)


def test_policy_admits_the_one_style_sheet_and_nothing_else(make_run, tmp_path):
    tree = LexborHTMLParser(page(make_run(tmp_path / "run"), tmp_path / "out"))
    (style,) = tree.css("style")
    policy = tree.css_first('meta[http-equiv="Content-Security-Policy"]').attributes["content"]
    digest = base64.b64encode(hashlib.sha256(style.text().encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_same_artifacts_same_bytes_wherever_and_however_fast(make_run, tmp_path):
    one = page(make_run(tmp_path / "here", speed=1.0), tmp_path / "out-1")
    two = page(make_run(tmp_path / "there", speed=77.125, fingerprint="0" * 64), tmp_path / "out-2")
    assert one == two
    assert str(tmp_path) not in one
    assert "tokens_per_s" not in one


def test_all_sections_are_there_and_show_the_numbers(make_run, tmp_path):
    tree = LexborHTMLParser(page(make_run(tmp_path / "run"), tmp_path / "out"))
    sections = [node.attributes["id"] for node in tree.css("section")]
    assert sections == ["stages", "data", "tokenizer", "training", "attention", "scores", "answers", "provenance"]
    contents = [(node.attributes["href"] or "").removeprefix("#") for node in tree.css("nav a")]
    assert contents == sections
    tiles = {tile.css_first("dt").text(): [node.text() for node in tile.css("dd")] for tile in tree.css(".tile")}
    assert tiles == {
        "Documents": ["900", "of 1,000 before deduplication"],
        "Parameters": ["1.35 M", "trained on 1.23 M tokens"],
        "Bits per byte": ["1.750", "held-out documents; xz -9: 2.50"],
        "Four-choice accuracy": ["50.0 %", "46.9 to 53.1 %, chance 25 %"],
        "CORE": ["0.333", "0.302 to 0.365, 1 of 22 tasks; chat: 0.250"],
    }
    boxes = tree.css(".dag .name")
    assert [node.text() for node in boxes] == [
        "crawl", "clean", "dedup", "tokenizer", "shard", "pretrain", "instruct", "finetune", "evaluate",
    ]  # fmt: skip
    assert "1,300 → 1,234" in [node.text() for node in tree.css(".dag .count")]
    data = tree.css_first("#data").text()
    assert "6 documents" in data
    assert [cell.text().strip() for cell in tree.css("#data table")[0].css("td")[:3]] == ["kept", "1,234", "94.9 %"]
    assert len(tree.css("#answers .bad")) == 1


def table(tree: LexborHTMLParser, number: int) -> list[list[str]]:
    """The cells of a table of scores, row by row."""
    rows = tree.css("table.scores")[number].css("tr")
    return [[" ".join(cell.text(separator=" ").split()) for cell in row.css("th, td")] for row in rows]


def test_scores_stand_by_what_they_are_about(make_run, tmp_path):
    tree = LexborHTMLParser(page(make_run(tmp_path / "run"), tmp_path / "out"))
    titles = [node.text() for node in tree.css("#scores h3")]
    assert titles == ["Text", "Answers", "Choices and other tasks", "Benchmarks"]
    head = ["benchmark, metric", "of", "model", "score", "95 % interval", "n"]
    assert table(tree, 0) == [
        head,
        ["held-out documents bits per byte v1", "all", "xz -9", "2.500", "2.469 to 2.531", "64"],
        ["all", "base", "1.750", "1.719 to 1.781", "64"],
        ["source plain words", "base", "1.500", "1.469 to 1.531", "64"],
    ]
    assert table(tree, 1)[1:] == [
        ["held-out examples well-formed ends of turn v1", "chat", "75.0 %", "71.9 to 78.1 %", "64", ""]
    ]
    assert table(tree, 2)[1:] == [
        ["four-choice definitions accuracy v1", "chat", "50.0 %", "46.9 to 53.1 %", "25.0 %", "64", ""],
        ["chat minus base", "+12.5 points", "+9.4 to +15.6", "", "64", ""],
    ]
    assert table(tree, 3) == [
        [*head[:5], "chance", "n", "centred", "0 to 100 %"],
        ["CORE centred accuracy, 1 of 22 tasks v1", "all", "base", "0.333", "0.302 to 0.365", "", "64", "", ""],
        ["all", "chat", "0.250", "0.219 to 0.281", "", "64", "", ""],
        ["arc_easy accuracy v1", "all", "base", "50.0 %", "46.9 to 53.1 %", "25.0 %", "64", "0.333", ""],
        ["clean items", "base", "43.8 %", "40.6 to 46.9 %", "25.0 %", "64", "", ""],
    ]


def test_training_shows_the_best_and_the_kept_step_and_what_was_skipped(make_run, tmp_path):
    stages = make_run(tmp_path / "run")
    config_path = tmp_path / "run" / "finetune" / "config.json"
    write_json(config_path, read_json(config_path) | {"training": {"loop.keep": "best"}})
    tree = LexborHTMLParser(page(stages, tmp_path / "out"))
    pretrain, finetune = [" ".join(part.text(separator=" ").split()) for part in tree.css("#training .columns > div")]
    said = "30 steps; last training loss 0.200; lowest held-out loss at step 10; the model is that of step"
    assert f"pretrain {said} 30." in pretrain
    assert f"finetune {said} 10." in finetune
    assert (
        "held out step 0 best, step 10 kept, step 30 loss 6.000 0.125 0.250 bits per byte 3.000 0.062 0.125" in pretrain
    )
    assert "kept, step 10 loss 6.000 0.125 0.125" in finetune
    assert "Skipped steps: 1 step batch why 7 6 plain words" in pretrain
    assert len(tree.css("#training svg.chart")) == 2


def test_the_example_marks_what_the_loss_is_taken_on(make_run, tmp_path):
    tree = LexborHTMLParser(page(make_run(tmp_path / "run"), tmp_path / "out"))
    (example,) = tree.css(".example")
    text = {tag: "".join(node.text() for node in example.css(tag)) for tag in ("span", "mark")}
    assert text == {"span": "<|document|><|user|>plain·words<|end|><|assistant|>", "mark": "Yes.<|end|>"}
    short = LexborHTMLParser(page(make_run(tmp_path / "again"), tmp_path / "b", replace(CONFIG, example_tokens=3)))
    assert len(short.css(".example span")) == 3
    none = LexborHTMLParser(page(make_run(tmp_path / "none"), tmp_path / "c", replace(CONFIG, example_tokens=0)))
    assert not none.css(".example")


def test_models_stand_beside_each_other_under_each_prompt(make_run, tmp_path):
    tree = LexborHTMLParser(page(make_run(tmp_path / "run"), tmp_path / "out"))
    last = tree.css("#answers .answer")[-1]
    assert [node.text() for node in last.css("dt")] == ["prompt", "base", "chat"]
    assert [node.text() for node in last.css("dd")] == ["plain words"] * 3


def test_attention_cells_stand_in_their_own_columns(make_run, tmp_path):
    from llm.report.attention import chat_attention

    stages = make_run(tmp_path / "run")
    tree = LexborHTMLParser(page(stages, tmp_path / "out"))
    roles = ("user", "assistant")
    messages = [{"role": role, "content": "plain words"} for role in roles]
    expected = chat_attention(tmp_path / "run" / "finetune", messages, CONFIG.attention_tokens)
    assert any(0 in row[: row.index(max(row))] for row in expected.weights), "no gap in any row: nothing is tested"
    frame, *cells = tree.css(".attention rect")
    left, top = (float(frame.attributes[name] or "") for name in ("x", "y"))
    side = float(cells[0].attributes["width"] or "")
    found = {}
    for cell in cells:
        x, y, opacity = (float(cell.attributes[name] or "") for name in ("x", "y", "fill-opacity"))
        found[round((y - top) / side), round((x - left) / side)] = opacity
    assert found == {
        (i, j): pytest.approx(weight**0.5, abs=0.005)
        for i, row in enumerate(expected.weights)
        for j, weight in enumerate(row)
        if weight > 0
    }


STAGES = ("crawl", "clean", "dedup", "tokenizer", "shard", "pretrain", "instruct", "finetune", "evaluate")


@pytest.mark.parametrize("kept", [STAGES[:n] for n in (0, 2, 5)] + [STAGES[:n] + STAGES[n + 1 :] for n in range(9)])
def test_missing_stages_leave_their_sections_out(kept, make_run, tmp_path):
    stages = [stage for stage in make_run(tmp_path / "run") if stage.stage in kept]
    tree = LexborHTMLParser(page(stages, tmp_path / "out"))
    sections = [node.attributes["id"] for node in tree.css("section")]
    assert [(node.attributes["href"] or "").removeprefix("#") for node in tree.css("nav a")] == sections
    assert ("tokenizer" in sections) == ("tokenizer" in kept)
    assert ("training" in sections) == bool({"pretrain", "finetune"} & set(kept))
    assert ("scores" in sections) == ("answers" in sections) == ("evaluate" in kept)
    assert [node.text() for node in tree.css(".dag .name")] == list(kept)


def test_what_a_stage_makes_is_what_it_says_and_not_its_name(make_run, tmp_path):
    """The attention is that of the last chat model, whatever its stage is called; without one, of the base model."""
    stages = make_run(tmp_path / "run")
    renamed = [replace(stage, stage=f"my {stage.stage}") if stage.makes else stage for stage in stages]
    tiles = LexborHTMLParser(page(renamed, tmp_path / "renamed")).css(".tile dt")
    assert [tile.text() for tile in tiles][1] == "Parameters"
    asked: list[Path] = []
    for makes in ("chat", None):
        given = [replace(stage, makes=makes if stage.makes == "chat" else stage.makes) for stage in renamed]
        with pytest.MonkeyPatch.context() as patch:
            for name in ("chat_attention", "text_attention"):
                patch.setattr(f"llm.report.report.{name}", lambda path, *_: asked.append(path))
            page(given, tmp_path / f"out {makes}")
    assert [path.name for path in asked] == ["finetune", "pretrain"]


def test_stages_without_their_files_do_not_stop_the_report(make_run, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    stages = [replace(stage, path=empty) for stage in make_run(tmp_path / "run")]
    tree = LexborHTMLParser(page(stages, tmp_path / "out"))
    assert [node.attributes["id"] for node in tree.css("section")] == ["stages", "data", "provenance"]


def test_every_template_is_named_so_that_a_change_of_it_makes_the_report_anew():
    folder = Path(llm.report.__file__).parent
    assert {path.name for path in folder.glob("*.jinja")} == set(TEMPLATES)


def test_counts_are_of_stages(make_run, tmp_path):
    (tmp_path / "out").mkdir()
    counts = write_report(make_run(tmp_path / "run"), tmp_path / "out", CONFIG)
    n_bytes = (tmp_path / "out" / "report.html").stat().st_size
    assert counts == Counts("stages", 9, 9, figures={"n_bytes": n_bytes})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]
    assert n_bytes < 200_000


def test_long_texts_are_cut_and_samples_limited(make_run, tmp_path):
    config = replace(CONFIG, max_chars=10, n_samples=2, n_answers=1)
    tree = LexborHTMLParser(page(make_run(tmp_path / "run", text="x" * 50), tmp_path / "out", config))
    assert [node.text() for node in tree.css(".answer .question")] == ["x" * 9 + "…"] * 2  # an answer and a prompt
    assert max(len(row.css("li")) for row in tree.css("#data details tr")) == 2
    assert all(len(node.text()) <= 10 for node in tree.css("#data li strong, #data li span"))
    assert max(len(node.text(deep=False).strip()) for node in tree.css("#data li")) <= 10


def test_many_reasons_are_folded_and_still_add_up(make_run, tmp_path):
    first, *rest = make_run(tmp_path / "run")
    reasons = {f"language {code:02}": code + 1 for code in range(30)}
    n_dropped = sum(reasons.values())
    first = replace(first, counts=Counts("pages", n_dropped + 7, 7, reasons))
    table = LexborHTMLParser(page([first, *rest], tmp_path / "out")).css("#data table")[0]
    numbers = [int(row.css_first("td.number").text().replace(",", "")) for row in table.css("tr")]
    assert len(numbers) == 13
    assert (numbers[0], sum(numbers[1:])) == (7, n_dropped)
    assert "19 other reasons" in table.text()


@pytest.mark.parametrize(
    ("number", "short", "full"),
    [(0, "0", "0"), (999, "999", "999"), (123456, "123,456", "123,456"), (1_350_400, "1.35 M", "1,350,400"),
     (2.5e9, "2.5 G", "2,500,000,000"), (1.98765, "2", "1.988")],
)  # fmt: skip
def test_numbers_read_well(number, short, full):
    assert (compact(number), figure(number)) == (short, full)


def test_cut_keeps_the_limit():
    assert [cut("abcd", n) for n in (1, 3, 4, 9)] == ["…", "ab…", "abcd", "abcd"]


def test_what_is_not_seen_in_a_token_is_made_visible():
    assert spaced(" a\n b") == "·a⏎·b"
