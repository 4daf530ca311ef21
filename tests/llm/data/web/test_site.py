"""The served folder, and where Python's documentation comes from."""

import http.client
import io
import subprocess
import threading
import urllib.request
import zipfile

import pytest

from llm.data.web import site
from llm.data.web.config import SiteConfig
from llm.data.web.site import find_python_docs, resolve_site, serve
from tests.llm.data.web.crawling import TEST_SITE


def ask(url, path, headers=None):
    """Status and body of one GET."""
    connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=5)
    connection.putrequest("GET", path, skip_host=bool(headers))
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    found = response.status, response.getheader("Content-Type"), response.read()
    connection.close()
    return found


@pytest.fixture(scope="module")
def url():
    """The address of tests/site."""
    with serve(TEST_SITE, 0) as address:
        yield address


def test_files_are_served_with_their_types(url):
    assert ask(url, "/index.html") == (200, "text/html", (TEST_SITE / "index.html").read_bytes())
    assert ask(url, "/guide/")[2] == (TEST_SITE / "guide/index.html").read_bytes()
    assert ask(url, "/files/recipe.txt")[1] == "text/plain"
    assert ask(url, "/robots.txt")[0] == 200


@pytest.mark.parametrize(
    "path", ["/files/", "/no.html", "/../README.md", "/%2e%2e/README.md", "/..%2fREADME.md", "//etc/passwd"]
)
def test_listings_missing_files_and_ways_out_are_not_found(url, path):
    assert ask(url, path)[0] == 404


def test_links_that_lead_out_of_the_folder_are_not_followed(tmp_path):
    (tmp_path / "secret.html").write_text("secret")
    folder = tmp_path / "html"
    folder.mkdir()
    (folder / "index.html").write_text("fine")
    (folder / "inside.html").symlink_to("index.html")
    (folder / "outside.html").symlink_to("../secret.html")
    with serve(folder, 0) as url:
        assert ask(url, "/inside.html")[0] == 200
        assert ask(url, "/outside.html")[0] == 404
        assert ask(url, "/robots.txt")[0] == 404


def test_foreign_host_names_are_refused(url):
    assert ask(url, "/index.html", {"Host": "evil.example"})[0] == 403


def test_many_connections_at_once(url):
    found = []
    threads = [threading.Thread(target=lambda: found.append(ask(url, "/index.html")[0])) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 40


def test_a_connection_is_kept_open(url):
    connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=5)
    for _ in range(2):
        connection.request("GET", "/index.html")
        assert connection.getresponse().read() == (TEST_SITE / "index.html").read_bytes()
        assert connection.sock is not None
    connection.close()


def test_a_port_in_use_names_the_field(url):
    port = int(url.rstrip("/").rpartition(":")[2])
    with pytest.raises(OSError, match=rf"site\.port: port {port} is in use; choose another"), serve(TEST_SITE, port):
        pass


def test_resolve_site(tmp_path):
    assert resolve_site(SiteConfig(folder=str(TEST_SITE)), tmp_path) == TEST_SITE
    with pytest.raises(ValueError, match=r"site\.folder is '/nowhere'.*'python-docs' or a folder"):
        resolve_site(SiteConfig(folder="/nowhere"), tmp_path)


# Python's documentation, with the outside world played by stand-ins


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    """No documentation under /usr/share/doc, no apt, no network; returns the cache folder."""
    monkeypatch.setattr(site, "INSTALLED_DOCS", tmp_path / "usr")
    monkeypatch.setattr(site, "_run", lambda *args: (_ for _ in ()).throw(OSError("apt-get update failed: no network")))
    monkeypatch.setattr(site, "_download", lambda url: (_ for _ in ()).throw(OSError("no network")))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def make_docs(folder, text):
    """A documentation folder."""
    folder.mkdir(parents=True)
    (folder / "index.html").write_text(text)


def left_in(cache_dir):
    """What a call left in the cache, the lock file aside."""
    return {path.name for path in cache_dir.iterdir()} - {"python-docs.lock"}


def test_the_newest_installed_documentation_is_used_in_place(nothing_installed):
    for version in ("3.9", "3.11"):
        make_docs(site.INSTALLED_DOCS / f"python{version}/html", version)
    assert find_python_docs(nothing_installed) == site.INSTALLED_DOCS / "python3.11/html"
    assert left_in(nothing_installed) == set()


def test_the_debian_package_behind_python3_doc_is_unpacked_once(nothing_installed, monkeypatch, tmp_path):
    calls = []

    def run(program, folder, *arguments):
        calls.append((program, *arguments))
        if arguments[0] == "depends":
            return "python3-doc\n  Depends: python3.12-doc\n  Suggests: python3-examples\n"
        if arguments[0] == "download":
            tree = tmp_path / "package"
            make_docs(tree / "usr/share/doc/python3.12/html", "from Debian")
            (tree / "usr/share/doc/python3.12-doc").mkdir()
            (tree / "usr/share/doc/python3.12-doc/html").symlink_to("../python3.12/html")
            (folder / f"{arguments[1]}_3.12.0_all.deb").touch()
        return ""

    def unpack(command, cwd, **options):
        assert command[:2] == ["dpkg-deb", "-x"]
        (tmp_path / "package").rename(cwd / command[3])

    monkeypatch.setattr(site, "_run", run)
    monkeypatch.setattr(subprocess, "run", unpack)
    docs = find_python_docs(nothing_installed)
    assert docs == nothing_installed / "python-docs"
    assert (docs / "index.html").read_text() == "from Debian"
    assert ("apt-get", "download", "python3.12-doc") in calls
    assert left_in(nothing_installed) == {"python-docs"}
    calls.clear()
    assert find_python_docs(nothing_installed) == docs
    assert calls == []


def archive_of(names):
    """A zip file with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "from python.org")
    return buffer.getvalue()


def test_the_archive_of_python_org_is_the_last_resort(nothing_installed, monkeypatch):
    top = "python-3.14-docs-html"
    members = [f"{top}/index.html", f"{top}/tutorial/index.html", "../../evil.html", "/evil.html"]
    pages = {
        site.DOWNLOAD_PAGE: b'<a href="archives/python-3.14-docs-html.zip">zip</a>',
        "https://docs.python.org/3/archives/python-3.14-docs-html.zip": archive_of(members),
    }
    monkeypatch.setattr(site, "_download", pages.__getitem__)
    docs = find_python_docs(nothing_installed)
    assert sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.html")) == [
        "index.html",
        "tutorial/index.html",
    ]
    assert not list(nothing_installed.parent.glob("**/evil.html"))


def test_a_broken_archive_leaves_nothing_behind(nothing_installed, monkeypatch):
    answers = iter([b'<a href="archives/python-3.14-docs-html.zip">', b"not a zip file"])
    monkeypatch.setattr(site, "_download", lambda url: next(answers))
    with pytest.raises(ConnectionError, match="not a zip file"):
        find_python_docs(nothing_installed)
    assert left_in(nothing_installed) == set()


def test_nothing_to_be_had_is_one_error_that_says_what_to_do(nothing_installed):
    with pytest.raises(
        ConnectionError, match=r"debian: apt-get update failed.*python org: no network.*set site\.folder"
    ):
        find_python_docs(nothing_installed)
    assert left_in(nothing_installed) == set()


def test_downloads_use_urllib_with_a_time_limit(monkeypatch):
    seen = {}

    def urlopen(url, timeout):
        seen.update(url=url, timeout=timeout)
        return io.BytesIO(b"content")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert site._download("https://docs.python.org/x") == b"content"
    assert seen == {"url": "https://docs.python.org/x", "timeout": site.DOWNLOAD_TIMEOUT_S}
