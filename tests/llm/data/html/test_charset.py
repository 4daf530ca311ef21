from __future__ import annotations

import random

import pytest

from llm.data.html.charset import SNIFFED_CODECS, declared_codec, decode_html, sniffed_codec

# A few plain sentences each, of our own.
SENTENCES = {
    "cp1252": "Größere Brötchen backen wir für die Gäste am Sonntag. Übrigens schmeckt das süße Gebäck auch kühl.",
    "gb18030": "面粉和水在罐子里发酵一个星期以后就成了酵头。面包师每天早上用新鲜的面粉喂养它。",
    "cp932": "小麦粉と水を瓶に入れて一週間置くと、パン種ができます。毎朝、新しい粉を加えてください。",
    "euc_jp": "小麦粉と水を瓶に入れて一週間置くと、パン種ができます。毎朝、新しい粉を加えてください。",
    "cp1251": "Закваска живёт в банке на кухне. Каждое утро пекарь кормит её свежей мукой и тёплой водой.",
    "koi8-u": "Закваска живёт в банке на кухне. Каждое утро пекарь кормит её свежей мукой и тёплой водой.",
    "cp866": "Закваска живет в банке на кухне. Каждое утро пекарь кормит ее свежей мукой и теплой водой.",
    "cp1250": "Každé ráno krmíme kvásek čerstvou moukou a vlažnou vodou. Žitný chléb vydrží na stole celý týden.",
    "iso-8859-2": "Każdego ranka karmimy zakwas świeżą mąką i letnią wodą. Żytni chleb leży na stole cały tydzień.",
    "big5hkscs": "麵粉和水在罐子裡發酵一個星期以後就成了酵頭。麵包師傅每天早上用新鮮的麵粉餵養它。",
    "cp949": "밀가루와 물을 병에 넣고 일주일 동안 두면 발효종이 됩니다. 매일 아침 새 밀가루를 넣어 주세요.",
    "cp1253": "Κάθε πρωί ταΐζουμε το προζύμι με φρέσκο αλεύρι και χλιαρό νερό. Το ψωμί φουσκώνει όλη τη νύχτα.",
    "cp1254": "Her sabah ekşi mayayı taze un ve ılık suyla besliyoruz. Ekmek bütün gece yavaş yavaş kabarıyor.",
    "cp1255": "כל בוקר אנחנו מאכילים את המחמצת בקמח טרי ובמים פושרים. הלחם תופח לאט במשך כל הלילה.",
    "cp1256": "نطعم الخميرة كل صباح بالدقيق الطازج والماء الفاتر. ينتفخ الخبز ببطء طوال الليل في المطبخ.",
    "cp1257": "Kiekvieną rytą maitiname raugą šviežiais miltais ir vandeniu. Duona kyla visą naktį žemoje krosnyje.",
    "cp874": "ทุกเช้าเราให้อาหารแป้งเปรี้ยวด้วยแป้งสดและน้ำอุ่น ขนมปังจะขึ้นฟูช้า ๆ ตลอดทั้งคืน",
}


def html(text: str, codec: str) -> bytes:
    page = f"<html><head><title>x</title><script>if (a < b) {{ c() }}</script></head><body><p class=main>{text}</p>"
    return page.encode(codec)


def test_there_is_a_sentence_for_every_charset_that_is_tried() -> None:
    assert SENTENCES.keys() == SNIFFED_CODECS.keys()


@pytest.mark.parametrize("codec", SENTENCES)
def test_an_undeclared_charset_is_found(codec: str) -> None:
    text = SENTENCES[codec]
    assert text in decode_html(html(text, codec))
    assert text in decode_html(html(text, codec), "text/html; charset=utf-8")  # declared wrongly
    assert text in decode_html(html(text, codec), "text/html; charset=bogus")


@pytest.mark.parametrize("codec", SENTENCES)
def test_the_declaration_counts_more_than_statistics(codec: str) -> None:
    """In the header, or in a meta element; by every name for the charset that Python and the web share."""
    label = {"big5hkscs": "big5", "cp949": "euc-kr", "cp932": "shift_jis", "gb18030": "gbk"}.get(codec, codec)
    label = label.replace("cp125", "windows-125").replace("cp874", "windows-874")
    body = html("Ä" + SENTENCES[codec] if codec == "cp1252" else SENTENCES[codec], codec)
    assert declared_codec(b"", f"text/html; charset={label}") == codec
    for found in (
        decode_html(body, f"text/html; charset={label}"),
        decode_html(f'<meta charset="{label}">'.encode() + body),
    ):
        assert SENTENCES[codec] in found


def test_utf8_stays_utf8_with_a_few_broken_bytes() -> None:
    good = ("Größere Brötchen für Gäste. " * 20).encode()
    for broken in (good.replace(b" ", b"\xe4", 1), good[1:].replace(b"\xb6", b"", 1), good + b"\xc3"):
        for header in ("", "text/html; charset=utf-8", "text/html; charset=iso-8859-1"):
            text = decode_html(broken, header)
            assert text.count("Brötchen") >= 18
            assert text.count("\ufffd") <= 1


def test_a_few_bytes_above_ascii_are_western() -> None:
    assert sniffed_codec(b"<p>\xa9 2020 the bakery, 5\xb0 caf\xe9</p>") == "cp1252"
    assert decode_html(b"<p>\x93so\x94 \x96 \xa9 2020</p>") == "<p>“so” – © 2020</p>"
    assert decode_html(b"") == ""


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf16_needs_no_byte_order_mark(codec: str) -> None:
    page = "<html><body><p>Größere Brötchen</p></body></html>"
    assert decode_html(page.encode(codec)) == page
    mixed = f"<html><head><title>{SENTENCES['cp1251']}</title></head></html>" + "<p>text</p>" * 50
    assert decode_html(mixed.encode(codec)) == mixed


def test_sniffing_never_fails_and_takes_bounded_time() -> None:
    rng = random.Random(5)
    for size in (1, 5, 50, 500, 300_000):
        for _ in range(3):
            decode_html(rng.randbytes(size))
    decode_html(b"\xff" * 500_000)
    decode_html(b"a" * 500_000 + b"\xff" * 9 + b"a" * 500_000)
    decode_html(b"<\xff>" * 200_000)
