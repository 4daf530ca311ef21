"""The egress guard, by its rules and against a victim that counts connections."""

import contextlib
import socket
import threading

import pyarrow.parquet as pq
import pytest

from llm.data.web.egress import EgressPolicy, private_kind
from tests.llm.data.web.crawling import crawl, html, site

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::", "::127.0.0.1", "fe80::1", "fe80::1%lo",
    "fc00::1", "ff02::1", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_have_a_name(address):
    assert private_kind(address).split()[0] in ("a", "an")


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1946", "::ffff:8.8.8.8"])
def test_public_addresses_have_none(address):
    assert private_kind(address) is None


def test_what_the_recipe_names_is_allowed_at_that_port_only():
    policy = EgressPolicy(["localhost:8000", "[::1]:9000", "intranet:80"])
    assert policy.rejection_reason("localhost", "127.0.0.1", 8000) is None
    assert policy.rejection_reason("127.0.0.1", "127.0.0.1", 8000) is None, "the address of an allowed name"
    assert policy.rejection_reason("intranet", "10.0.0.5", 80) is None
    assert policy.rejection_reason("::1", "::1", 9000) is None
    assert "allow_private" in policy.rejection_reason("localhost", "127.0.0.1", 8001)
    assert "loopback" in policy.rejection_reason("127.0.0.1", "127.0.0.1", 80)
    assert "private" in policy.rejection_reason("other", "10.0.0.6", 80)


def test_public_hosts_may_be_used_at_web_ports_only():
    policy = EgressPolicy(ports=(80, 443))
    assert policy.rejection_reason("example.org", "93.184.216.34", 443) is None
    assert "port 25" in policy.rejection_reason("example.org", "93.184.216.34", 25)


def test_one_bad_address_refuses_a_name():
    policy = EgressPolicy()
    assert policy.judge("good.test", ["93.184.216.34"], 80)
    assert not policy.judge("mixed.test", ["93.184.216.34", "127.0.0.1"], 80)
    assert "127.0.0.1" in policy.refusals["mixed.test", 80]


def test_a_name_is_no_address():
    with pytest.raises(ValueError, match="localhost"):
        EgressPolicy().rejection_reason("localhost", "localhost", 80)


DECOY = "127.0.0.77"
"""Stands for a public address."""

LISTENING = ("127.0.0.1", "127.0.0.2", DECOY, "127.255.255.254", "::1")
"""Where the victim listens: every address of this machine that a form below leads to (0.0.0.0 and :: lead to the first
and the last), and none that another machine could reach."""


@contextlib.contextmanager
def victim():
    """A service on addresses of this machine; yields its port, and its callers as (address called, first line)."""
    callers, sockets = [], []
    for address in LISTENING:
        with contextlib.suppress(OSError):  # a machine without IPv6, or with 127.0.0.1 alone
            listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            sockets.append(listener)
            port = sockets[0].getsockname()[1] if len(sockets) > 1 else 0
            listener.bind((address, port))
            listener.listen(50)
    running = [threading.Thread(target=_accept, args=(listener, callers)) for listener in sockets]
    for thread in running:
        thread.start()
    try:
        yield sockets[0].getsockname()[1], callers
    finally:
        for listener in sockets:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in running:
            thread.join()


def _accept(listener, callers):
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret"
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(2)
                callers.append((connection.getsockname()[0], connection.recv(300).split(b"\r\n")[0]))
                connection.sendall(answer)


HOSTS = [
    "127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "127.1", "127.0.1", "0", "0.0.0.0", "localhost",
    "localhost.", "LOCALHOST", "127.0.0.2", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]", "017700000001", "127.0.0.1.",
    "%31%32%37.0.0.1", "1\uff127.0.0.1", "①②⑦.0.0.1", "user@127.0.0.1", "example.com@127.0.0.1", "[::1%25lo]",
    "127.000.000.001", "0x7F.0x0.0x0.0x1", "0177.0x0.0.01", "127.0.0.1%00.example.com", "127.255.255.254", "0x0.0x0",
    "00", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::ffff:0:127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2001:0:7f00:1::]",
    "[fe80::1]", "[fd00::1]", "[::FFFF:127.0.0.1]", "[::7f00:1]", "169.254.169.254", "0xa9fea9fe", "2852039166",
    "10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1",
    "127。0。0。1", "127.0.0.1\u3002", "\uff4cocalhost", "loc\u00adalhost", "1%327.0.0.1", "[::ffff:a9fe:a9fe]",
    "user:pw@[::1]",
]  # fmt: skip
"""Ways to write an address of this machine or of a private network, and things that look like one."""


def forms(port):
    """URLs that lead to the victim, as far as they lead anywhere; the first ten surely do."""
    return [f"http://{host}:{port}/secret{number}" for number, host in enumerate(HOSTS)] + [
        f"https://127.0.0.1:{port}/s",
        f"//127.0.0.1:{port}/relative",
        f"http:\\\\127.0.0.1:{port}/backslash",
        f"http://127.0.0.1:{port}\\@127.0.0.1/x",
        "file:///etc/passwd",
        f"ftp://127.0.0.1:{port}/",
        f"gopher://127.0.0.1:{port}/_x",
        "data:text/html,x",
    ]


ADDRESSES = [
    "127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::", "::127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1",
    "169.254.169.254", "100.64.0.1", "224.0.0.1", "fd00::1", "fe80::1", "ff02::1",
]  # fmt: skip


def changing_names():
    """Names that resolve to the decoy at first and then to a private address, the other way round, and to both."""
    names = {}
    for number, address in enumerate(ADDRESSES):
        names[f"first{number}.test"] = [[DECOY], [address]]
        names[f"second{number}.test"] = [[address], [DECOY]]
        names[f"both{number}.test"] = [[DECOY, address], [address, DECOY]]
    return names


AGENT = {"user_agent": "test (test@sourdough.test)"}


def crawl_towards_the_victim(tmp_path, targets, seeds=(), **oddities):
    """Crawls a site that links, redirects and points sitemaps to every target, and follows links to any host."""

    def answer(path):
        if path.startswith("/redirect/"):
            target = targets[int(path.removeprefix("/redirect/"))]
            return 302, {"Location": target.encode().decode("latin-1"), "Content-Type": "text/html"}, b""
        if path == "/robots.txt":
            lines = "".join(f"Sitemap: {target}.xml\n" for target in targets)
            return 200, {}, f"User-agent: *\nAllow: /\n{lines}".encode()
        if path == "/sitemap.xml":
            return 200, {}, "".join(f"<loc>{target}-listed</loc>" for target in targets).join(["<urlset>", ""]).encode()
        redirects = [f"/redirect/{number}" for number in range(len(targets))]
        return html("/fine.html", *targets, *redirects)

    with site(answer) as running:
        config = {"seeds": [running.url, *seeds], "allow_private": [running.place], **AGENT}
        budget = {"max_depth": 2, "max_retries": 0, "timeout_s": 5}
        done = crawl(tmp_path / "crawl", {**config, **budget}, {"everywhere": True, **oddities})
        assert done.returncode == 0, done.stderr()
        stored = pq.read_table(done.out_dir / "pages.parquet")["url"].to_pylist()
        refused = pq.read_table(done.out_dir / "refused.parquet").to_pylist()
        return running, stored, {row["url"]: row["reason"] for row in refused}


def test_no_form_of_address_reaches_the_victim_by_link_redirect_or_sitemap(tmp_path):
    assert len(HOSTS) >= 60
    with victim() as (port, callers):
        running, stored, refused = crawl_towards_the_victim(tmp_path, forms(port))
        assert callers == []
        assert f"{running.url}fine.html" in stored
        assert all(url.startswith(running.url) for url in stored), "a backslash is a path on the same site"
        redirects = {path for path in running.paths() if path.removeprefix("/redirect/").isdigit()}
        assert len(redirects) == len(forms(port)), "every redirect was asked for"
        for suffix in ("", ".xml", "-listed"):
            assert "egress refused: 127.0.0.1" in refused[f"http://127.0.0.1:{port}/secret0{suffix}"]
        assert sum(reason.startswith("egress refused") for reason in refused.values()) >= 100


def test_no_change_of_names_reaches_the_victim(tmp_path):
    names = changing_names()
    assert len(names) >= 60
    with victim() as (port, callers):
        urls = [f"http://{name}:{port}/" for name in names]
        oddities = {"fake_dns": names, "public": DECOY}
        _, _, refused = crawl_towards_the_victim(tmp_path, urls, seeds=urls[::2], **oddities)
        assert {address for address, _ in callers} == {DECOY}, "a connection goes to the address that was judged"
        for number in range(len(ADDRESSES)):
            assert refused[f"http://both{number}.test:{port}/"].startswith("egress refused")


def test_the_victim_is_reached_when_the_guard_is_taken_out(tmp_path):
    with victim() as (port, callers):
        crawl_towards_the_victim(tmp_path, forms(port)[:10], unguarded=True)
        assert len(callers) >= 5


def test_a_redirect_of_robots_txt_does_not_reach_the_victim_and_closes_the_site(tmp_path):
    with victim() as (port, callers):
        location = {"Location": f"http://127.0.0.1:{port}/robots.txt"}
        with site(lambda path: (302, location, b"") if path == "/robots.txt" else html()) as running:
            config = {"seeds": [running.url], "allow_private": [running.place]}
            done = crawl(tmp_path / "c", config)
            assert f"egress refused: 127.0.0.1:{port} is a loopback address" in done.error
            assert running.paths() == []
        assert callers == []


def test_without_the_resolver_nothing_is_fetched(tmp_path):
    with site(lambda path: html()) as running:
        config = {"seeds": [running.url], "allow_private": [running.place]}
        done = crawl(tmp_path / "c", config, {"no_resolver": True})
        assert "egress refused: the egress guard is not in place" in done.error
        assert running.requests == []
