from __future__ import annotations

import pytest

from llm.data.clean.language import detect_language

ENGLISH = "Yeast in a jar of flour and water wakes up within a week and makes bread rise. " * 4
GERMAN = "Der Sauerteig wird jeden Morgen mit frischem Mehl und lauwarmem Wasser gefüttert. " * 4


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "en"),
        (ENGLISH.upper(), "en"),
        (GERMAN, "de"),
        ("Le levain est un mélange de farine et d'eau, fermenté pendant une semaine.", "fr"),
        ("Закваска — это смесь муки и воды, которая бродит неделю.", "ru"),
        ("面粉和水在罐子里发酵一个星期以后就成了酵头。", "zh"),
        ("小麦粉と水を瓶に入れて一週間置くと、パン種ができます。", "ja"),
        ("", ""),
        ("1 + 1 = 2 😀", ""),
    ],
)
def test_language(text: str, language: str) -> None:
    code, score = detect_language(text)
    assert code == language
    assert 0 <= score <= 1
    assert (code, score) == detect_language(text.replace(" ", "\n  "))


def test_the_plain_words_of_an_index_decide() -> None:
    """Symbols, numbers and names that say nothing stand before the words, as in the index of a manual."""
    symbols = "".join(f"__x{n}__(), {n}f.\n- --opt{n} (\\x{n:02x}): 0o{n:o}, %{n}d, +={n}\n" for n in range(40))
    index = symbols + "\n".join(f"command line option of the module {n}, see there;" for n in range(30))
    code, score = detect_language(index)
    assert code == "en"
    assert score > detect_language(symbols)[1]


def test_the_beginning_decides_where_it_is_certain() -> None:
    assert detect_language(GERMAN * 3 + ENGLISH * 50)[0] == "de"


def test_long_texts_without_words_are_measured_in_parts() -> None:
    code, score = detect_language("0x1f _a1_ <=> " * 200_000)
    assert code == "" or score <= 1
