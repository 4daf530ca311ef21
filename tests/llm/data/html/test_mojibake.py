from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.html.mojibake import SUSPECT_BYTES, mojibake_share, repair_mojibake

TEXTS = [
    "Größere Brötchen backen wir für die Gäste – „süß“ und kühl.",
    "L’été dernier, à la fenêtre, l’œuf était prêt : « voilà… », 20 °C.",
    "El niño comió pan añejo; ¿qué más quería? ¡Pingüinos!",
    "A maçã e o pão não são da mesma estação, João.",
    "Každé ráno krmíme kvásek čerstvou moukou.",
    "Każdego ranka karmimy zakwas świeżą mąką.",
    "Закваска живёт в банке на кухне.",
    "Κάθε πρωί ταΐζουμε το προζύμι.",
    "小麦粉と水を瓶に入れます。面包师每天喂养它。",
    "“It’s done” — 5 € a loaf… 😀 for the baker’s café",
    "Her sabah ekşi mayayı besliyoruz. Iğdır, İstanbul.",
]
# Correct text that holds the letters of mojibake, and letters followed by what could continue a sequence of UTF-8.
CORRECT = [
    *TEXTS,
    "",
    "MAÇÃ”, “IRMÔ, ‘MANHÃ’… AMANHÃ — SÃO PAULO™, NÃO°",
    "LA PÂTE À PAIN : « CHÂTEAU » ÂGE, THÉÂTRE, « Â »",
    "VIỆT NAM: ÂM NHẠC, PHỞ, ĐÀ NẴNG «CÂN»",
    "“the ‘café’” and ‘déjà’… »papéž« »NÔŽ« PAPÉŽ STRÁŽ ZTÍŽÍ™ “víš”",
    "HYVÄ”, PÄÄ… SMÅ» Å² = 0.01 nm², 5 Å”, Å³ ±",
    "The letters Ã, Â and “Ã” and (Â) and É—that is all; Ñ® Ä™",
    "ÄÖÜ ÉÈÊ Ãã Ââ ÀÁÂÃÄÅ ÐÞ àáâãäå ðñòóô ÿ ß™",
    "naïve façade, Zoë’s résumé, 5°C, §5, ©2020, ½ £5 €7",
]


def broken(text: str, times: int = 1, codec: str = "cp1252") -> str:
    for _ in range(times):
        chars = (bytes([byte]) for byte in text.encode())
        text = "".join(char.decode(codec, errors="ignore") or chr(char[0]) for char in chars)
    return text


@pytest.mark.parametrize("text", CORRECT)
def test_correct_text_stays(text: str) -> None:
    assert repair_mojibake(text) == (text, 0)
    assert repair_mojibake(" ".join(CORRECT))[1] == 0
    assert mojibake_share(text) == 0


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("codec", ["cp1252", "latin-1"])
def test_mojibake_is_decoded(text: str, times: int, codec: str) -> None:
    spoilt = broken(text, times, codec)
    assert spoilt != text
    repaired, n_repaired = repair_mojibake(spoilt)
    assert repaired == text
    assert n_repaired > 0
    assert SUSPECT_BYTES.search(spoilt.encode())


@pytest.mark.parametrize(
    ("spoilt", "text"),
    [
        ("The baker’s “cafÃ© noir” is naïve", "The baker’s “café noir” is naïve"),
        ("Größe: 20 Â°C, Â© 2020 bei uns", "Größe: 20 °C, © 2020 bei uns"),
        ("It\u00e2\u20ac\u2122s a fa\u00e7ade", "It’s a façade"),
        ("naïve Ã\u00a0 la carte", "naïve à la carte"),
        ("so ðŸ˜€ naïve", "so 😀 naïve"),
        ("mÂ² und Fläche", "m² und Fläche"),
        ("“the bakerâ€ and “loafâ€\ufffd.", "“the baker” and “loaf”."),
    ],
)
def test_a_spoilt_run_in_a_good_text_is_repaired_alone(spoilt: str, text: str) -> None:
    assert repair_mojibake(spoilt)[0] == text


def test_what_cannot_be_repaired_is_measured() -> None:
    assert mojibake_share("") == 0
    assert mojibake_share("plain") == 0
    assert mojibake_share("caf\ufffd und t\ufffd") == pytest.approx(2 / 11)
    assert mojibake_share("CÃ©É sÃ£É") > 0.2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([word for text in CORRECT for word in text.split()]), max_size=20))
def test_correct_words_in_any_order_stay(words: list[str]) -> None:
    text = " ".join(words)
    assert repair_mojibake(text) == (text, 0)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=0x2FFF, exclude_categories=("Cs",)), max_size=60))
def test_any_text_is_repaired_without_an_error_and_once_is_enough(text: str) -> None:
    repaired, _ = repair_mojibake(text)
    assert len(repaired) <= len(text)
    assert repair_mojibake(broken(repaired))[0] is not None


def test_long_runs_take_linear_time() -> None:
    assert repair_mojibake("é" * 500_000)[1] == 0
    assert repair_mojibake("Ã©" * 200_000) == ("é" * 200_000, 1)
