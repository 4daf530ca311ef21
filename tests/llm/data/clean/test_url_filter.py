from __future__ import annotations

from pathlib import Path

import pytest

from llm.data.clean.url_filter import BlockList, load_block_list

LIST = BlockList.of(
    [
        "casino.com",
        "  Bad.Example.ORG.  ",
        "https://blog.org/ads/",
        "news.net/story?id=7",
        "poker",
        "münchen.de",
        "# no",
    ]
)


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("https://casino.com/", "casino.com"),
        ("http://CASINO.com:8080/x", "casino.com"),
        ("https://www.play.casino.com/a", "casino.com"),
        ("https://casino.com./", "casino.com"),
        ("https://mycasino.com/", ""),
        ("https://casino.com.net/", ""),
        ("https://casino.community/", ""),
        ("https://bad.example.org/a", "bad.example.org"),
        ("https://example.org/a", ""),
        ("https://blog.org/ads/1", "blog.org/ads/"),
        ("http://blog.org/ads/", "blog.org/ads/"),
        ("https://blog.org/adsense", ""),
        ("https://blog.org/", ""),
        ("https://news.net/story?id=77", "news.net/story?id=7"),
        ("https://a.org/Poker-rules.html", "poker"),
        ("https://poker.org/", "poker"),
        ("https://a.org/pokerface", ""),
        ("https://münchen.de/rathaus", "xn--mnchen-3ya.de"),
        ("https://xn--mnchen-3ya.de/", "xn--mnchen-3ya.de"),
        ("https://a.org/?to=casino.com", ""),
        ("https://[broken/", ""),
        ("", ""),
        ("file-of-texts#poker:3", "poker"),
    ],
)
def test_addresses_are_matched(url: str, entry: str) -> None:
    assert LIST.match(url) == entry


def test_an_empty_list_blocks_nothing() -> None:
    assert BlockList.of(()).match("https://casino.com/poker") == ""


def test_a_file_adds_to_the_entries(tmp_path: Path) -> None:
    path = tmp_path / "blocked.txt"
    path.write_text("# hosts\n\ncasino.com  # all of it\nblog.org/#top\n", encoding="utf-8")
    blocked = load_block_list(("poker",), str(path))
    found = [blocked.match(url) for url in ("https://casino.com/", "https://x.org/poker", "https://blog.org/#top", "x")]
    assert found == ["casino.com", "poker", "blog.org/#top", ""]
    path.write_text("other.com", encoding="utf-8")  # read again when the file has changed
    assert load_block_list(("poker",), str(path)).match("https://casino.com/") == ""


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"blocked_urls_file is '.*none.txt', but there is no such file"):
        load_block_list((), str(tmp_path / "none.txt"))
    path = tmp_path / "latin.txt"
    path.write_bytes("münchen.de".encode("cp1252"))
    with pytest.raises(ValueError, match=r"blocked_urls_file is .*latin.txt.*not UTF-8"):
        load_block_list((), str(path))
