"""WARC and WET files, sound and damaged in every way: what is used is right, and what is not is counted and named."""

import gzip
import hashlib
import io
import itertools
import random
import re
import time

import pytest
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from llm.data.common.warc_write import encode_record
from llm.data.sources import members, warc_split
from llm.data.sources.found import FoundPage, Skipped
from llm.data.sources.members import MAGIC
from llm.data.sources.warc_files import read_warc, read_wet
from llm.data.sources.warc_split import raw_records

HTML = [("Content-Type", "text/html; charset=utf-8")]


def body_of(number: int) -> bytes:
    rng = random.Random(number)
    words = " ".join(rng.choice(["bread", "flour", "water", "salt", "starter"]) for _ in range(rng.randrange(50, 900)))
    return f"<html><body><p>{number} {words}".encode()


BODIES = {f"http://a.example/{number:02d}": body_of(number) for number in range(12)}


def warcio_file(records, *, gzipped=True):
    """A WARC file by another hand; a record is (type, url, HTTP status and headers or None, payload, WARC headers)."""
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=gzipped)
    writer.write_record(writer.create_warcinfo_record("a.warc.gz", {"software": "test"}))
    for kind, url, http, payload, headers in records:
        lines = StatusAndHeaders(http[0], http[1], protocol="HTTP/1.1") if http else None
        writer.write_record(
            writer.create_warc_record(
                url,
                kind,
                payload=io.BytesIO(payload),
                length=len(payload),
                http_headers=lines,
                warc_headers_dict=dict(headers),
            )
        )
    return buffer.getvalue()


def response(url, body, *, status="200 OK", headers=HTML, warc=()):
    return ("response", url, (status, list(headers)), body, warc)


def sound_file(*, gzipped=True):
    records = []
    for url, body in BODIES.items():
        records.append(("request", url, ("GET / HTTP/1.1", []), b"", ()))
        records.append(response(url, body))
        records.append(("metadata", url, None, b"fetchTimeMs: 10", ()))
    return warcio_file(records, gzipped=gzipped)


def read(content):
    """Pages by URL, and what was skipped, of a WARC file."""
    found = list(read_warc(io.BytesIO(content)))
    pages = {item.url: item.body for item in found if isinstance(item, FoundPage)}
    return pages, [item for item in found if isinstance(item, Skipped)]


@pytest.fixture(params=["gzip", "plain", "gzip as a whole"])
def sound(request):
    if request.param == "gzip":
        return sound_file()
    plain = sound_file(gzipped=False)
    return plain if request.param == "plain" else gzip.compress(plain)


def test_pages_of_a_sound_file(sound):
    assert read(sound) == (BODIES, [])


def test_the_same_pages_as_warcio_gives():
    content = sound_file()
    records = ArchiveIterator(io.BytesIO(content))
    expected = {
        record.rec_headers["WARC-Target-URI"]: record.content_stream().read()
        for record in records
        if record.rec_type == "response"
    }
    assert read(content)[0] == expected


def test_every_page_comes_with_a_record_that_others_can_read(sound):
    for page in read_warc(io.BytesIO(sound)):
        [record] = [
            (item.rec_headers["WARC-Target-URI"], item.content_stream().read())
            for item in ArchiveIterator(io.BytesIO(page.member), check_digests="raise")
        ]
        assert record == (page.url, page.body)


def starts_of_members(content):
    found = members.gzip_members(io.BytesIO(content), 2**25, prefix=b"WARC/")
    return [(member.start, member.stop) for member in found]


def test_members_cover_the_file():
    content = sound_file()
    spans = starts_of_members(content)
    assert len(spans) == 1 + 3 * len(BODIES)
    assert [stop for _, stop in spans] == [start for start, _ in spans[1:]] + [len(content)]


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_costs_one_record_at_most_and_is_named(seed):
    rng = random.Random(seed)
    content = bytearray(sound_file())
    spans = starts_of_members(bytes(content))
    place = rng.randrange(len(content))
    content[place] ^= 1 << rng.randrange(8)
    pages, skipped = read(bytes(content))
    damaged = next(number for number, (start, stop) in enumerate(spans) if start <= place < stop)
    url = sorted(BODIES)[(damaged - 1) // 3] if damaged % 3 == 2 else None
    assert all(pages[url] == BODIES[url] for url in pages)
    assert set(BODIES) - set(pages) <= {url}
    if url and url not in pages:
        assert [item.reason for item in skipped] == ["damaged"]
    for item in skipped:
        assert item.place == f"byte {spans[damaged][0]}"


@pytest.mark.parametrize("seed", range(30))
def test_a_file_that_is_cut_off_is_noticed_and_read_up_to_there(seed):
    content = sound_file()
    spans = starts_of_members(content)
    cut = random.Random(seed).randrange(1, len(content))
    pages, skipped = read(content[:cut])
    whole = [number for number, (_, stop) in enumerate(spans) if stop <= cut]
    assert list(pages) == [sorted(BODIES)[(number - 1) // 3] for number in whole if number % 3 == 2]
    expected = [] if cut == spans[len(whole) - 1][1] else [f"byte {spans[len(whole)][0]}"]
    assert [item.place for item in skipped] == expected
    assert [item.reason for item in skipped] == ["cut off"] * len(expected)


def test_every_damaged_member_is_named():
    content = bytearray(sound_file())
    spans = starts_of_members(bytes(content))
    hit = [2, 5, 6, 20, 35]  # neighbours too, and the last response but one
    for number in hit:
        start, stop = spans[number]
        middle = (start + stop) // 2
        content[middle : stop - 9] = random.Random(number).randbytes(stop - 9 - middle)
    pages, skipped = read(bytes(content))
    assert [item.place for item in skipped] == [f"byte {spans[number][0]}" for number in hit]
    assert set(BODIES) - set(pages) == {sorted(BODIES)[(number - 1) // 3] for number in hit if number % 3 == 2}


def test_bytes_that_belong_to_no_member():
    content = sound_file()
    [start] = [start for start, _ in starts_of_members(content)][5:6]
    junk = random.Random(1).randbytes(5000)
    for spoilt in (junk + content, content[:start] + junk + content[start:], content + junk, content + bytes(512)):
        pages, skipped = read(spoilt)
        assert pages == BODIES
        assert [item.reason for item in skipped] == ["damaged"]


@pytest.mark.parametrize("seed", range(30))
def test_a_plain_file_with_a_damaged_piece(seed):
    """Without checksums of gzip the digests tell; at most the records that were hit are lost."""
    rng = random.Random(seed)
    content = bytearray(sound_file(gzipped=False))
    starts = [match.start() for match in re.finditer(rb"WARC/1\.\d\r\n", content)]
    start = rng.randrange(len(content) - 200)
    stop = start + rng.randrange(1, 200)
    content[start:stop] = rng.randbytes(stop - start)
    pages, skipped = read(bytes(content))
    hit = {
        number for number, begin in enumerate(starts) if begin < stop and [*starts, len(content)][number + 1] > start
    }
    urls = {sorted(BODIES)[(number - 1) // 3] for number in hit if number % 3 == 2}
    assert all(pages[url] == BODIES[url] for url in pages)
    assert set(BODIES) - set(pages) <= urls
    assert len(skipped) <= len(hit)


@pytest.mark.parametrize("seed", range(15))
def test_a_plain_file_that_is_cut_off(seed):
    content = sound_file(gzipped=False)
    starts = [match.start() for match in re.finditer(rb"WARC/1\.\d\r\n", content)] + [len(content)]
    cut = random.Random(seed).randrange(1, len(content))
    pages, skipped = read(content[:cut])
    n_whole = sum(stop - 4 <= cut for stop in starts[1:])  # the empty lines after a record are no loss
    assert len(pages) == sum(number % 3 == 2 for number in range(n_whole))
    expected = [(f"byte {starts[n_whole]}", "cut off")] if starts[n_whole] < cut else []
    assert [(item.place, item.reason) for item in skipped] == expected


@pytest.mark.parametrize("between", [b"", b"\r\n", b"\n", b"\n\n", b"\r\n\r\n\r\n"])
@pytest.mark.parametrize("form", ["gzip", "plain", "gzip as a whole"])
def test_writers_that_end_records_in_their_own_way(between, form):
    content = sound_file(gzipped=False)
    starts = [match.start() for match in re.finditer(rb"WARC/1\.\d\r\n", content)]
    records = [content[start : stop - 4] + between for start, stop in itertools.pairwise([*starts, len(content)])]
    if form == "gzip":
        content = b"".join(map(gzip.compress, records))
    else:
        content = gzip.compress(b"".join(records)) if form != "plain" else b"".join(records)
    assert read(content) == (BODIES, [])


def test_a_length_that_lies_costs_that_record_only():
    content = sound_file(gzipped=False)
    length = re.search(rb"WARC-Type: response.*?Content-Length: (\d+)\r\n", content, re.DOTALL)
    for lie in (b"3", b"9" * 9, b"9" * 17, str(int(length[1]) + 700).encode()):
        pages, skipped = read(content[: length.start(1)] + lie + content[length.end(1) :])
        assert len(pages) == len(BODIES) - 1
        assert len(skipped) == 1


def test_a_truncated_whole_gzip_file_gives_what_stands_before():
    content = gzip.compress(sound_file(gzipped=False))
    pages, skipped = read(content[: len(content) // 2])
    assert 0 < len(pages) < len(BODIES)
    assert all(pages[url] == BODIES[url] for url in pages)
    assert [item.reason for item in skipped] == ["cut off"]


@pytest.mark.parametrize("kind", ["WARC-Payload-Digest", "WARC-Block-Digest"])
def test_a_wrong_digest_is_named(kind):
    content = warcio_file([response("http://a.example/", b"<p>x"), response("http://b.example/", b"y")], gzipped=False)
    place = content.index(f"{kind}: sha1:".encode(), content.index(b"msgtype=response") - 300) + len(f"{kind}: sha1:")
    pages, skipped = read(content[:place] + b"A" * 32 + content[place + 32 :])
    assert pages == {"http://b.example/": b"y"}
    assert [(item.reason, item.detail) for item in skipped] == [("wrong digest", "http://a.example/ sha1:" + "A" * 32)]


@pytest.mark.parametrize(
    "digest",
    [
        f"sha256:{hashlib.sha256(b'<p>x').hexdigest()}",
        f"SHA1:{hashlib.sha1(b'<p>x').hexdigest().upper()}",
        f"md5:{hashlib.md5(b'<p>x').hexdigest()}",
        "blake9:abc",
        "nonsense",
    ],
)
def test_digests_of_other_kinds(digest):
    content = warcio_file([response("http://a.example/", b"<p>x", warc={"WARC-Payload-Digest": digest})])
    assert read(content) == ({"http://a.example/": b"<p>x"}, [])


def test_what_is_no_page_is_named():
    content = warcio_file(
        [
            response("http://a.example/404", b"gone", status="404 Not Found"),
            response("http://a.example/png", b"\x89PNG", headers=[("Content-Type", "image/png")]),
            response("http://a.example/untyped", b"<p>y", headers=[]),
            response("http://a.example/xhtml", b"<p>z", headers=[("content-type", "Application/XHTML+XML ;charset=a")]),
            ("revisit", "http://a.example/again", ("200 OK", HTML), b"", ()),
            ("resource", "http://a.example/resource", None, b"<p>", ()),
            ("response", "dns:a.example", None, b"1.2.3.4", {"Content-Type": "text/dns"}),
            response("", b"<p>"),
        ]
    )
    pages, skipped = read(content)
    assert pages == {"http://a.example/untyped": b"<p>y", "http://a.example/xhtml": b"<p>z"}
    assert [(item.reason, item.detail.partition(" ")[0]) for item in skipped] == [
        ("HTTP status", "http://a.example/404"),
        ("not HTML", "http://a.example/png"),
        ("not a response", "http://a.example/again"),
        ("not a response", "http://a.example/resource"),
        ("not HTTP", "dns:a.example"),
        ("no URL", ""),
    ]


def test_encodings_of_http_are_undone():
    chunked = b"4\r\n<p>x\r\n2\r\nyz\r\n0\r\n\r\n"
    records = [
        response("http://a.example/chunked", chunked, headers=[*HTML, ("Transfer-Encoding", "chunked")]),
        response("http://a.example/gzip", gzip.compress(b"<p>zipped"), headers=[*HTML, ("Content-Encoding", "gzip")]),
        response("http://a.example/bad", b"<p>no gzip", headers=[*HTML, ("Content-Encoding", "gzip")]),
    ]
    found = list(read_warc(io.BytesIO(warcio_file(records))))
    assert {page.url: page.body for page in found[:2]} == {
        "http://a.example/chunked": b"<p>xyz",
        "http://a.example/gzip": b"<p>zipped",
    }
    assert found[0].member == encode_record("http://a.example/chunked", 200, HTML, b"<p>xyz")
    assert (found[2].reason, found[2].detail) == ("content encoding", "http://a.example/bad")


def test_an_address_in_angle_brackets():
    content = warcio_file([response("http://a.example/", b"<p>x")], gzipped=False)
    content = content.replace(b"URI: http://a.example/\r", b"URI: <http://a.example/>\r")
    [page] = read_warc(io.BytesIO(gzip.compress(content)))
    assert page.url == "http://a.example/"
    assert page.member == encode_record("http://a.example/", 200, HTML, b"<p>x")


def test_a_bomb_is_named_and_costs_no_memory(monkeypatch):
    monkeypatch.setattr(warc_split, "MAX_RECORD_BYTES", 100_000)
    bomb = warcio_file([response("http://a.example/bomb", bytes(5_000_000))])
    for content in (bomb + sound_file(), gzip.decompress(bomb) + sound_file(gzipped=False)):
        pages, skipped = read(content)
        assert pages == BODIES
        assert [item.reason for item in skipped] == ["too large"]


def test_small_and_large_members_are_read_alike(monkeypatch):
    """The quick way for small members and the other one give the same, also where bytes look like a member inside."""
    rng = random.Random(3)
    contents = [rng.randbytes(rng.randrange(3000)) + members.MAGIC * rng.randrange(3) for _ in range(50)]
    file = b"".join(gzip.compress(content, rng.choice([0, 6])) for content in contents)
    quick = list(members.gzip_members(io.BytesIO(file), 2**20))
    assert [member.data for member in quick] == contents
    monkeypatch.setattr(members, "_small_member", lambda *inputs: None)
    assert list(members.gzip_members(io.BytesIO(file), 2**20)) == quick


@pytest.mark.parametrize("content", [b"", b"\n", b"hello", b"\x1f\x8b\x08", b"WARC/1.0\r\n\r\n", bytes(100_000)])
def test_what_is_no_archive_at_all(content):
    pages, skipped = read(content)
    assert pages == {}
    assert len(skipped) == (1 if content else 0)


@pytest.mark.parametrize("seed", range(60))
def test_mutated_files_never_raise_and_never_lie(seed):
    rng = random.Random(1000 + seed)
    content = bytearray(sound_file(gzipped=seed % 2 == 0))
    for _ in range(rng.randrange(1, 6)):
        start = rng.randrange(len(content))
        stop = min(len(content), start + rng.randrange(1, 400))
        content[start:stop] = rng.choice(
            [b"", rng.randbytes(50), bytes(stop - start), bytes(content[stop : stop + 300])]
        )
    pages, _ = read(bytes(content))
    assert all(pages[url] == BODIES.get(url, pages[url]) for url in pages)


def test_texts_of_a_wet_file():
    texts = {f"http://a.example/{number}": f"Überschrift {number}\nText" for number in range(3)}
    records = [("conversion", url, None, text.encode(), {"Content-Type": "text/plain"}) for url, text in texts.items()]
    records.append(("conversion", "http://a.example/bad", None, b"\xff\xfe\xfd", {"Content-Type": "text/plain"}))
    records.append(response("http://a.example/page", b"<p>x"))
    found = list(read_wet(io.BytesIO(warcio_file(records)), "wet"))
    assert {item.url: item.text for item in found[:3]} == texts
    assert {item.source for item in found[:3]} == {"wet"}
    assert [(item.reason, item.detail) for item in found[3:]] == [("not UTF-8", "http://a.example/bad")]


@pytest.mark.parametrize(
    ("piece", "n_pieces", "n_records"),
    [
        (b"WARC/1.0\r\n", 100_000, 100_000),
        (b"WARC/1.0\r\n" * 6_000 + b"\r\n\r\n", 16, 96_000),
        (b"WARC/1.0\r\nContent-Length: 99999999\r\n\r\n", 25_000, 25_000),
        (MAGIC, 300_000, 1),
    ],
)
def test_what_only_begins_costs_little(piece: bytes, n_pieces: int, n_records: int) -> None:
    started = time.process_time()
    found = list(read_warc(io.BytesIO(piece * n_pieces)))
    assert time.process_time() - started < 2.5, "s for about 1 MB; 4 (the gzip one 8) where each is searched to its end"
    assert len(found) == n_records


def test_a_header_ends_where_the_next_one_begins() -> None:
    record = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a/\r\nContent-Length: 0\r\n\r\n\r\n\r\n"
    torn = record.partition(b"Content-Length")[0]
    found = list(raw_records(io.BytesIO(record + torn + record)))
    assert [(one.offset, one.problem) for one in found] == [
        (0, ""), (len(record), "damaged"), (len(record) + len(torn), "")
    ]  # fmt: skip
