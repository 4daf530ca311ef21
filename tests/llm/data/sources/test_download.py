"""Downloads from a real server on this machine that breaks off, lies, is busy, or has changed its mind."""

import hashlib
import random

import pytest

from llm.data.common.credential import Access
from llm.data.sources import download as downloads
from llm.data.sources.download import Download, download
from tests.llm.data.sources.file_server import serving

CONTENT = random.Random(5).randbytes(700_000)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(downloads, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(downloads, "LONGEST_WAIT_S", 0.01)


@pytest.fixture
def site():
    with serving({"data/a.bin": CONTENT, "empty": b""}) as server:
        yield server


def check(found: Download, content: bytes = CONTENT) -> None:
    assert found.path.read_bytes() == content
    assert (found.n_bytes, found.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def left_over(folder):
    """What a finished download leaves beside the file and its note: nothing but the lock."""
    return [path.name for path in folder.iterdir() if ".part" in path.name or path.name.endswith(".tmp")]


def test_a_file_comes_whole_and_is_not_fetched_again(site, tmp_path):
    url = f"{site.url}/data/a.bin"
    check(download(url, tmp_path))
    check(download(url, tmp_path))
    assert len(site.requests) == 1
    assert not left_over(tmp_path)
    check(download(f"{site.url}/empty", tmp_path), b"")


def test_a_file_damaged_on_this_disk_is_fetched_again(site, tmp_path):
    url = f"{site.url}/data/a.bin"
    path = download(url, tmp_path).path
    path.write_bytes(CONTENT[:-1] + b"x")
    check(download(url, tmp_path))
    path.write_bytes(CONTENT[:-1])
    check(download(url, tmp_path))
    assert len(site.requests) == 3


def test_a_broken_transfer_goes_on_where_it_was(site, tmp_path):
    site.break_after = [100_000, 250_000, 0, 1]
    check(download(f"{site.url}/data/a.bin", tmp_path))
    asked = [part for _, part in site.requests]
    assert asked[0] is None
    assert asked[1:] == ["bytes=100000-", "bytes=350000-", "bytes=350000-", "bytes=350001-"]


def test_it_goes_on_in_the_next_run(site, tmp_path):
    site.break_after = [300_000] + [0] * downloads.TRIES
    with pytest.raises(
        ConnectionError, match=r"after 300,000 of 700,000 bytes, 6 times in a row; 300,000 bytes are kept"
    ):
        download(f"{site.url}/data/a.bin", tmp_path)
    assert len(site.requests) == 1 + downloads.TRIES
    check(download(f"{site.url}/data/a.bin", tmp_path))
    assert site.requests[-1][1] == "bytes=300000-"


def test_a_process_killed_after_the_last_byte_fetches_nothing_again(site, tmp_path):
    url = f"{site.url}/data/a.bin"
    site.break_after = [10] * 1 + [0] * downloads.TRIES
    with pytest.raises(ConnectionError):
        download(url, tmp_path)
    next(tmp_path.glob("*.part")).write_bytes(CONTENT)
    n_requests = len(site.requests)
    check(download(url, tmp_path))
    assert len(site.requests) == n_requests


@pytest.mark.parametrize("extra", [b"x", b"x" * 800_000])
def test_a_part_that_is_too_long_is_not_used(site, tmp_path, extra):
    url = f"{site.url}/data/a.bin"
    site.break_after = [10] + [0] * downloads.TRIES
    with pytest.raises(ConnectionError):
        download(url, tmp_path)
    next(tmp_path.glob("*.part")).write_bytes(CONTENT + extra)
    check(download(url, tmp_path))


def test_a_file_that_changes_between_two_attempts_begins_anew(site, tmp_path):
    url = f"{site.url}/data/a.bin"
    site.break_after = [300_000] + [0] * downloads.TRIES
    with pytest.raises(ConnectionError):
        download(url, tmp_path)
    site.files["data/a.bin"] = CONTENT[::-1]
    check(download(url, tmp_path), CONTENT[::-1])


@pytest.mark.parametrize("fault", ["ranges", "etags"])
def test_without_ranges_or_etags_it_begins_anew(site, tmp_path, fault):
    setattr(site, fault, False)
    site.break_after = [300_000, 400_000]
    check(download(f"{site.url}/data/a.bin", tmp_path))
    assert len(site.requests) == 3


@pytest.mark.parametrize("status", downloads.BUSY)
def test_a_busy_server_is_asked_again(site, tmp_path, status):
    site.statuses = [status] * 3
    check(download(f"{site.url}/data/a.bin", tmp_path))
    assert len(site.requests) == 4


def test_a_server_that_stays_busy_is_a_connection_error(site, tmp_path):
    site.statuses = [503] * 50
    with pytest.raises(ConnectionError, match="answers 503"):
        download(f"{site.url}/data/a.bin", tmp_path)
    assert len(site.requests) == downloads.TRIES


def test_the_wait_that_the_server_asks_for_is_kept(site, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(downloads, "LONGEST_WAIT_S", 60)
    monkeypatch.setattr(downloads.time, "sleep", waits.append)
    site.statuses, site.headers = [503, 503, 503], {"Retry-After": "7"}
    download(f"{site.url}/data/a.bin", tmp_path)
    site.statuses, site.headers = [503, 503, 503], {"Retry-After": "100000"}
    download(f"{site.url}/empty", tmp_path)
    assert waits == [7, 7, 7, 60, 60, 60]


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_an_address_without_a_file_is_the_users_error(site, tmp_path, status):
    site.statuses = [status]
    with pytest.raises(ValueError, match=rf"{site.url}/data/a.bin: the server answers {status} .*check the address"):
        download(f"{site.url}/data/a.bin", tmp_path)
    assert len(site.requests) == 1


def test_a_server_that_announces_more_than_it_has_never_gives_a_file(site, tmp_path):
    site.announced, site.ranges = len(CONTENT) + 5, False
    with pytest.raises(ConnectionError, match="ended after 700,000 of 700,005 bytes"):
        download(f"{site.url}/data/a.bin", tmp_path)
    assert [path.suffix for path in tmp_path.iterdir() if not path.name.startswith(".")].count(".bin") == 0


def test_a_file_that_is_not_what_s3_says_never_comes(site, tmp_path):
    """The server sends fewer bytes than it has and says so: only the MD5 can tell."""
    site.announced, site.s3 = 1000, True
    with pytest.raises(ConnectionError, match=r"length or MD5"):
        download(f"{site.url}/data/a.bin", tmp_path)
    site.announced = None
    check(download(f"{site.url}/data/a.bin", tmp_path))


def test_an_answer_of_unknown_length_is_refused(site, tmp_path):
    site.chunked = True
    with pytest.raises(ValueError, match="does not say how long the file is"):
        download(f"{site.url}/data/a.bin", tmp_path)


def test_nobody_answers(tmp_path):
    with serving({}) as gone:
        url = f"{gone.url}/a"
    with pytest.raises(ConnectionError, match="no answer"):
        download(url, tmp_path)


def test_an_address_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="check the address"):
        download("http://127.0.0.1:1/a b", tmp_path)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a"])
def test_a_redirect_cannot_lead_to_this_disk(site, tmp_path, target):
    site.statuses, site.headers = [302] * downloads.TRIES, {"Location": target}
    with pytest.raises((ValueError, ConnectionError)):
        download(f"{site.url}/data/a.bin", tmp_path)
    assert not list(tmp_path.glob("*.bin"))


def test_a_span_comes_alone_and_goes_on_too(site, tmp_path):
    url = f"{site.url}/data/a.bin"
    site.break_after = [1000]
    check(download(url, tmp_path, (5_000, 9_000)), CONTENT[5_000:9_000])
    assert [part for _, part in site.requests] == ["bytes=5000-8999", "bytes=6000-8999"]
    check(download(url, tmp_path, (0, 10)), CONTENT[:10])
    check(download(url, tmp_path), CONTENT)


def test_a_span_needs_a_server_with_ranges(site, tmp_path):
    site.ranges = False
    with pytest.raises(ValueError, match="sends no byte ranges"):
        download(f"{site.url}/data/a.bin", tmp_path, (5, 10))


def test_a_span_beyond_the_file_is_an_error(site, tmp_path):
    with pytest.raises(ValueError, match=r"bytes 700000 to 700010\): the server answers 416"):
        download(f"{site.url}/data/a.bin", tmp_path, (700_000, 700_010))


@pytest.mark.parametrize("seed", range(8))
def test_random_breaks_never_change_a_byte(tmp_path, seed):
    rng = random.Random(seed)
    with serving({"a": CONTENT}) as site:
        site.break_after = [rng.choice([0, 1, rng.randrange(60_000)]) for _ in range(12)]
        site.ranges = rng.random() < 0.8
        span = sorted(rng.sample(range(len(CONTENT)), 2)) if site.ranges and rng.random() < 0.5 else None
        for _ in range(4):
            try:
                found = download(f"{site.url}/a", tmp_path, tuple(span) if span else None)
                break
            except ConnectionError:
                continue
        check(found, CONTENT[slice(*span)] if span else CONTENT)


TOKEN = Access("KEY", {"Authorization": "Bearer c4n4ry"}, secrets=("c4n4ry",))


@pytest.mark.parametrize("is_same", [True, False])
def test_a_credential_goes_to_the_server_that_it_is_for(site, tmp_path, is_same):
    seen = []
    with serving({"b.bin": CONTENT}) as other:
        for name, each in (("site", site), ("other", other)):
            each.opens = lambda path, headers, name=name: not seen.append((name, headers["Authorization"]))
        site.statuses = [302]
        site.headers = {"Location": f"{site.url}/empty" if is_same else f"{other.url}/b.bin"}
        download(f"{site.url}/data/a.bin", tmp_path, access=TOKEN)
    assert seen == [("site", "Bearer c4n4ry"), ("site", "Bearer c4n4ry") if is_same else ("other", None)]


def test_a_public_server_does_not_lead_to_a_private_address(site, tmp_path, monkeypatch):
    real = downloads.private_kind
    monkeypatch.setattr(downloads, "private_kind", lambda ip: None if ip == "127.0.0.1" else real(ip))
    site.statuses, site.headers = [302], {"Location": "http://127.0.0.2:1/latest?token=c4n4ry"}
    with pytest.raises(ValueError, match=r"redirects to http://127\.0\.0\.2:1/latest, a loopback address"):
        download(f"{site.url}/data/a.bin", tmp_path)


def test_a_rotated_signature_goes_on_where_the_last_one_stopped(site, tmp_path):
    url = f"{site.url}/data/a.bin"
    one, two = (Access("KEY", signed={url: f"{url}?X-Amz-Signature={name}"}) for name in ("one", "two"))
    site.break_after = [300_000]
    site.opens = lambda path, headers: len(site.requests) != 2  # the first signature ends while the file comes
    with pytest.raises(ValueError, match=rf"^{url}: .*403 .*holds as KEY: it may be wrong or expired"):
        download(url, tmp_path, access=one)
    made = download(url, tmp_path, access=two)
    assert made.path.read_bytes() == CONTENT
    assert site.requests[-1] == ("/data/a.bin?X-Amz-Signature=two", "bytes=300000-")
    assert not [path for path in tmp_path.iterdir() if path.is_file() and b"Signature" in path.read_bytes()]


def test_an_expired_signature_is_no_reason_to_try_again(site, tmp_path):
    site.statuses = [403]
    with pytest.raises(ValueError, match=r"answers 403 .*check what the environment holds as KEY"):
        download(f"{site.url}/data/a.bin", tmp_path, access=TOKEN)
    assert len(site.requests) == 1
