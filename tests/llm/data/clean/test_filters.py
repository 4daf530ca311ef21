"""The filters against readable versions that follow the papers word for word, and rule by rule."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import asdict, fields, replace

import pytest

from llm.config import Config, from_dict, identity
from llm.data.clean.filters.c4 import c4, n_sentences_in
from llm.data.clean.filters.filters import (
    C4,
    Filters,
    FineWeb,
    GopherQuality,
    GopherRepetition,
    apply_filters,
    fineweb,
)
from llm.data.clean.filters.gopher import gopher_quality, gopher_repetition
from llm.data.clean.filters.parts import Failure, TextParts

PROSE = (
    "The baker folds the dough and lets it rest until the morning comes.\n\n"
    "A jar of flour and water wakes up within a week, and that is all there is to it.\n\n"
    "Some people feed it with rye, others have better luck with wheat, and both make bread rise.\n\n"
    "In winter it takes longer, for the yeast likes a warm place by the oven.\n\n"
    "Nobody knows who baked the first loaf, but it must have been an accident."
)


def parts(text: str, language: str = "en") -> TextParts:
    return TextParts(text, language)


def rule(failure: Failure | None) -> str:
    return failure.reason.partition(": ")[2] if failure else ""


def test_good_prose_passes_every_filter() -> None:
    everything = Filters(
        gopher_repetition=GopherRepetition(), gopher_quality=GopherQuality(), c4=C4(), fineweb=FineWeb()
    )
    assert apply_filters(PROSE, "en", everything) == (PROSE, None)


# ---------------------------------------------------------------- Gopher, quality


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("the dough and that is all", "words"),
        ("the and to be of " + "word " * 100_000, "words"),
        (PROSE.replace("a", "").replace("e", "") + " a" * 200, "mean word length"),
        ("thebakerfoldsthedoughandbakes and that " * 40, "mean word length"),
        (PROSE + " #" * 12, "hash signs per word"),
        (PROSE + " so... on…" * 10, "ellipses per word"),
        ("\n".join(f"- the baker and that loaf {n}" for n in range(20)), "bullet lines"),
        (PROSE + "".join(f"\nthe baker and that loaf of number {n}…" for n in range(4)), "ellipsis lines"),
        (PROSE + " 2024" * 20, "alphabetic words"),
        ("Yeast sleeps while flour gets wet. " * 20, "stop words"),
    ],
)
def test_gopher_quality_names_the_broken_rule(text: str, broken: str) -> None:
    failure = gopher_quality(parts(text), GopherQuality())
    assert failure is not None
    assert failure.reason == f"Gopher quality: {broken}"
    assert failure.detail.startswith(f"{broken} ")
    assert ", allowed " in failure.detail


def test_details_say_what_was_measured_and_what_is_allowed() -> None:
    failure = gopher_quality(parts("the and " * 10), GopherQuality())
    assert failure == ("Gopher quality: words", "words 20, allowed 50 to 100000")
    failure = gopher_repetition(parts("a b c\n" * 4 + "d e f"), GopherRepetition(max_duplicate_paragraphs=None))
    assert failure == ("Gopher repetition: duplicate lines", "duplicate lines 0.6, allowed 0.3 or less")


def quality_by_the_paper(text: str, limits: GopherQuality) -> str:
    words, lines = text.split(), [line.strip() for line in text.split("\n") if line.strip()]
    if not limits.min_words <= len(words) <= limits.max_words:
        return "words"
    if not limits.min_mean_word_length <= sum(len(w) for w in words) / len(words) <= limits.max_mean_word_length:
        return "mean word length"
    if text.count("#") / len(words) > limits.max_symbols_per_word:
        return "hash signs per word"
    if (text.count("...") + text.count("…")) / len(words) > limits.max_symbols_per_word:
        return "ellipses per word"
    if sum(line[0] in "•‣●▪◦·*-–" for line in lines) / len(lines) > limits.max_bullet_lines:
        return "bullet lines"
    if sum(line.endswith(("...", "…")) for line in lines) / len(lines) > limits.max_ellipsis_lines:
        return "ellipsis lines"
    if sum(any(c.isalpha() for c in w) for w in words) / len(words) < limits.min_alphabetic_words:
        return "alphabetic words"
    return "stop words" if len({w.lower() for w in words} & set(limits.stop_words)) < limits.min_stop_words else ""


def random_text(rng: random.Random) -> str:
    """Lines of a few words that repeat themselves, with some of everything that the rules look at."""
    vocabulary = rng.choices(["the", "Of", "dough", "bread", "x1", "12", "#", "...", "—", "élan", "a-b", "…"], k=6)
    sentence = rng.choices(vocabulary, k=rng.randint(1, 12))
    lines: list[str] = []
    for _ in range(rng.randint(1, 30)):
        words = (
            sentence if rng.random() < 0.3 else rng.choices([*vocabulary, *map(str, range(40))], k=rng.randint(1, 9))
        )
        line = rng.choice(["", "", "- ", "  "]) + " ".join(words) + rng.choice(["", ".", "…", "\n"])
        lines.append(rng.choice(lines) if lines and rng.random() < 0.2 else line)
    return "\n".join(lines)


def test_gopher_quality_agrees_with_the_paper_on_random_texts() -> None:
    rng = random.Random(3)
    limits = GopherQuality(min_words=10, min_mean_word_length=1.5, max_mean_word_length=3)
    verdicts = Counter()
    for _ in range(600):
        text = random_text(rng)
        verdict = rule(gopher_quality(parts(text), limits))
        assert verdict == quality_by_the_paper(text, limits), text
        verdicts[verdict] += 1
    assert len(verdicts) >= 7


# ---------------------------------------------------------------- Gopher, repetition


def repetition_by_the_paper(text: str, limits: GopherRepetition) -> str:
    paragraphs = [part.strip() for part in split_blank(text) if part.strip()]
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    for name, items in (("paragraph", paragraphs), ("line", lines)):
        again = [item for place, item in enumerate(items) if item in items[:place]]
        if len(again) / len(items) > getattr(limits, f"max_duplicate_{name}s"):
            return f"duplicate {name}s"
        if sum(map(len, again)) / len(text) > getattr(limits, f"max_duplicate_{name}_chars"):
            return f"duplicate {name} characters"
    words = text.split()
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        if n <= 4:
            top, count = Counter(grams).most_common(1)[0] if grams else ((), 0)
            if count > 1 and len(" ".join(top)) * count / len(text) > getattr(limits, f"max_top_{n}_gram"):
                return f"top {n}-gram"
        else:
            inside = {i + j for i, gram in enumerate(grams) if gram in grams[:i] for j in range(n)}
            share = sum(len(words[i]) for i in inside) / len(text)
            if share > getattr(limits, f"max_duplicate_{n}_grams"):
                return f"duplicate {n}-grams"
    return ""


def split_blank(text: str) -> list[str]:
    paragraphs, current = [], []
    for line in text.split("\n"):
        if line.strip():
            current.append(line)
        else:
            paragraphs.append("\n".join(current))
            current = []
    return [*paragraphs, "\n".join(current)]


@pytest.mark.parametrize("seed", range(2))
def test_gopher_repetition_agrees_with_the_paper_on_random_texts(seed: int) -> None:
    rng = random.Random(seed)
    # Each set of limits lets another rule decide.
    loose = {field.name: 1.0 for field in fields(GopherRepetition)}
    for name in [*loose, None]:
        limits = GopherRepetition() if name is None else GopherRepetition(**{**loose, name: 0.1})
        verdicts = Counter()
        for _ in range(60):
            text = random_text(rng)
            verdict = rule(gopher_repetition(parts(text), limits))
            assert verdict == repetition_by_the_paper(text, limits), (limits, text)
            verdicts[verdict] += 1
        assert len(verdicts) > 1, name


# ---------------------------------------------------------------- FineWeb


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        (PROSE.replace(".", ""), "lines with an end mark"),
        ("\n".join(f"Bread {n}." for n in range(10)), "short lines"),
        (PROSE + "\n\n" + PROSE.split("\n")[0], "duplicate line characters"),
        ("\n".join(f"Bread and butter are {n}." for n in range(9)), "line breaks per word"),
    ],
)
def test_fineweb_names_the_broken_rule(text: str, broken: str) -> None:
    limits = FineWeb(max_short_lines=None, max_lines_per_word=0.15) if broken.startswith("line b") else FineWeb()
    assert rule(fineweb(parts(text), limits)) == broken


def test_blank_lines_between_paragraphs_change_nothing_for_fineweb() -> None:
    limits = FineWeb(max_lines_per_word=4 / 78)
    assert len(PROSE.split()) == 78
    assert fineweb(parts(PROSE), limits) is None
    assert fineweb(parts(PROSE.replace("\n\n", "\n")), limits) is None
    assert rule(fineweb(parts(PROSE), replace(limits, max_lines_per_word=3.9 / 78))) == "line breaks per word"


@pytest.mark.parametrize("mark", [".", "!", "?", "。", "؟", "।", "…"])
def test_the_marks_of_other_scripts_end_a_line(mark: str) -> None:
    text = PROSE.replace(".", mark)
    assert rule(fineweb(parts(text), FineWeb())) == ("lines with an end mark" if mark == "…" else "")


# ---------------------------------------------------------------- C4


def test_c4_removes_lines_and_keeps_the_paragraphs() -> None:
    lines = [
        "Bread: a guide",
        "The baker folds the dough, and it rests.",
        "",
        "Home | Shop | About",
        "",
        "Please enable JavaScript to see this page.",
        "Read our Privacy Policy before you bake.",
        "It rises twice[1] before it is baked.[citation needed]",
        "and so on...",
        "It rose.",
        "x" * 1_001 + " is the longest word ever.",
        'He said: "Bread."',
    ]
    text, failure = c4("\n".join(lines), C4(min_sentences=None))
    assert failure is None
    assert text == "\n".join([lines[1], "", "It rises twice before it is baked.", lines[-1]])


@pytest.mark.parametrize(
    ("switch", "line"),
    [
        ({"terminal_punctuation": False}, "Home and shop and about"),
        ({"min_words_per_line": None}, "Yes."),
        ({"max_word_chars": None}, "x" * 2_000 + " is a word."),
        ({"javascript": False}, "JavaScript is a language."),
        ({"policies": False}, "We have terms of use."),
        ({"citations": False}, "It rises twice[1]."),
    ],
)
def test_each_rule_of_c4_can_be_switched_off(switch: dict[str, object], line: str) -> None:
    base = C4(min_sentences=None)
    text = f"The dough rests.\n{line}"
    assert c4(text, base)[0] != text
    assert c4(text, replace(base, **switch))[0] == text


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("Lorem Ipsum dolor sit amet. " * 5, "lorem ipsum"),
        ("It is so. " * 5 + "if (x) { y }", "curly bracket"),
        ("It is so. " * 4, "sentences"),
        ("", "sentences"),
    ],
)
def test_c4_drops_a_page(text: str, broken: str) -> None:
    assert rule(c4(text, C4())[1]) == broken
    off = C4(lorem_ipsum=False, curly_brackets=False, min_sentences=None)
    assert c4(text, off)[1] is None


@pytest.mark.parametrize(
    ("line", "n"),
    [
        ("", 0),
        ("---", 0),
        ("no mark at all", 1),
        ("One. Two! Three? Four", 4),
        ('He said "So it is." And left.', 2),
        ("Version 3.11 of e.g. this thing is out.", 1),
        ("Wait... What?", 2),
        ("面粉和水。发酵一个星期！好吗？", 1),
    ],
)
def test_sentences_of_a_line(line: str, n: int) -> None:
    assert n_sentences_in(line) == n


# ---------------------------------------------------------------- settings


def test_none_switches_a_rule_off() -> None:
    text = "# # # 12 34 ...\n" * 30
    for config, run in (
        (GopherQuality(), gopher_quality),
        (GopherRepetition(), gopher_repetition),
        (FineWeb(), fineweb),
    ):
        assert run(parts(text), config) is not None
        limits = {f.name: None for f in fields(config) if f.name not in ("stop_words", "short_line_chars")}
        assert run(parts(text), replace(config, **limits)) is None


def test_no_filter_runs_by_default() -> None:
    assert apply_filters("{ { 12", "", Filters()) == ("{ { 12", None)


def test_c4_is_followed_by_fineweb_on_what_it_leaves() -> None:
    text = PROSE + "\n" + "\n".join(f"Menu {n}" for n in range(40))
    assert rule(apply_filters(text, "en", Filters(fineweb=FineWeb()))[1]) == "lines with an end mark"
    assert apply_filters(text, "en", Filters(c4=C4(), fineweb=FineWeb())) == (PROSE, None)


def test_filters_survive_the_way_through_json() -> None:
    filters: Config = Filters(gopher_quality=GopherQuality(min_words=7, max_words=None), c4=C4())
    values = json.loads(json.dumps(asdict(filters)))
    assert from_dict(Filters, values) == filters
    assert identity(filters)["fineweb"] is None


# ---------------------------------------------------------------- languages


def test_a_language_without_spaces_is_measured_in_characters() -> None:
    chinese = "面粉和水在罐子里发酵一个星期以后就成了酵头。面包师每天早上用新鲜的面粉喂养它，让它保持活力。" * 2
    assert rule(gopher_quality(parts(chinese, "en"), GopherQuality())) == "words"
    assert gopher_quality(parts(chinese, "zh"), GopherQuality()) is None
    assert parts("面 粉\n水", "zh").words == ["面", "粉", "水"]


def test_stop_words_are_asked_of_english_only() -> None:
    german = "Der Sauerteig wird jeden Morgen mit frischem Mehl und lauwarmem Wasser gefüttert. " * 6
    assert rule(gopher_quality(parts(german, "en"), GopherQuality())) == "stop words"
    assert gopher_quality(parts(german, "de"), GopherQuality()) is None


@pytest.mark.parametrize("text", ["", " ", "\n\n", "a", "a b", ".", "\x00"])
def test_the_smallest_texts_are_measured(text: str) -> None:
    for language in ("en", "zh"):
        for run, config in (
            (gopher_quality, GopherQuality(min_words=None)),
            (gopher_repetition, GopherRepetition()),
            (fineweb, FineWeb()),
        ):
            run(TextParts(text, language), config)
        c4(text, C4())
