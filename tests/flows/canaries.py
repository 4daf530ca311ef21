"""Credentials that are canaries: a server that demands them, a recipe that names them, a search through a workspace."""

from __future__ import annotations

import base64
import gzip
import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from llm.data.common.warc_write import encode_record
from tasks.core.workspace import REPOSITORY
from tests.llm.data.sources.file_server import Site, serving

SECRETS = {
    "CANARY_BEARER": "c4n4ryBearer8Kq2",
    "CANARY_BASIC": "c4n4ryUser7:c4n4ryPassword5Xw",
    "CANARY_HEADER": "c4n4ryHeader3Zt9",
    "CANARY_SIGNATURE": "c4n4rySignature6Pm1",
}
"""By the names of the environment variables; of the signed address its signature."""
HUB_COMMIT = "a" * 40
PAGES = REPOSITORY / "tests/site/html"


def forms() -> list[bytes]:
    """Every form in which a canary could be written down."""
    user, password = SECRETS["CANARY_BASIC"].split(":")
    plain = [*SECRETS.values(), user, password]
    encoded = [base64.b64encode(value.encode()).decode().rstrip("=") for value in plain]
    return [form.encode() for form in {*plain, *encoded, *(value[::-1] for value in plain)}]


def contents(data: bytes) -> Iterator[bytes]:
    """What a file says: its bytes, and what is in them where they are compressed, a table, or a database."""
    yield data
    if data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    if data.startswith(b"PAR1"):
        yield repr(pq.read_table(io.BytesIO(data)).to_pylist()).encode()
    if data.startswith(b"SQLite format 3"):
        connection = sqlite3.connect(":memory:")
        connection.deserialize(data[:18] + b"\1\1" + data[20:])  # no write-ahead log, which memory has not
        yield "\n".join(connection.iterdump()).encode()


def hits(*folders: Path) -> list[str]:
    """The files below some folders that hold a canary in any form, by content or by name."""
    found = []
    for path in (path for folder in folders for path in sorted(folder.rglob("*"))):
        if path.is_symlink() or not path.is_file():
            continue
        said = [str(path).encode(), *contents(path.read_bytes())]
        found += [f"{path}: {form.decode()}" for form in forms() if any(form in text for text in said)]
    return found


def texts() -> list[str]:
    """Texts that the clean stage keeps."""
    story = "The baker takes the dough out of the bowl, folds it over and lets it rest until it has doubled its size. "
    return [f"On day {n} of the month there was bread {n * 7}. {story * 6} It was sold for {n}." for n in range(6)]


def served_files() -> dict[str, bytes]:
    """The files of the server, by path."""
    table = io.BytesIO()
    pq.write_table(pa.table({"text": [text + " In a table." for text in texts()]}), table)
    html, paths = [("Content-Type", "text/html")], sorted(PAGES.rglob("*.html"))
    pages = [encode_record(f"http://site.example/{path.name}", 200, html, path.read_bytes()) for path in paths]
    rows = io.BytesIO()
    chat = [[{"role": "user", "content": f"What is bread {n}?"}, {"role": "assistant", "content": f"A loaf, {n}."}]
            for n in range(6)]  # fmt: skip
    pq.write_table(pa.table({"text": [text + " On the hub." for text in texts()], "messages": chat}), rows)
    return {
        "bearer/notes.jsonl": "".join(json.dumps({"text": text + " In lines."}) + "\n" for text in texts()).encode(),
        "basic/rows.parquet": table.getvalue(),
        "header/pages.warc.gz": b"".join(pages),
        "signed/story.txt.gz": gzip.compress((texts()[0] + " In a text.").encode()),
        "bearer/wet.paths.gz": gzip.compress(b"archive.warc.gz\n"),
        "bearer/archive.warc.gz": pages[0],
        f"datasets/me/rows/resolve/{HUB_COMMIT}/data/train.parquet": rows.getvalue(),
        **hub_answers(len(rows.getvalue())),
    }


def hub_answers(n_bytes: int) -> dict[str, bytes]:
    """What the hub's API says of a data set with one file, by path."""
    api, file = "api/datasets/me/rows", "data/train.parquet"
    entry = {"type": "file", "path": file, "size": n_bytes, "oid": "b" * 40}
    folder = {"type": "directory", "path": "data", "oid": "c" * 40, "size": 0}
    about = {"_id": "1", "id": "me/rows", "sha": HUB_COMMIT, "private": True, "siblings": [{"rfilename": file}]}
    answers = {f"revision/{HUB_COMMIT}": about, f"tree/{HUB_COMMIT}": [folder], f"tree/{HUB_COMMIT}/data": [entry]}
    return {f"{api}/{path}": json.dumps(value).encode() for path, value in answers.items()}


def opens(path: str, headers: Message) -> bool:
    """Whether the server lets a request in: each folder demands its own kind of credential."""
    basic = base64.b64encode(SECRETS["CANARY_BASIC"].encode()).decode()
    kind = path.lstrip("/").partition("/")[0]
    if kind == "signed":
        return parse_qs(urlsplit(path).query).get("X-Amz-Signature") == [SECRETS["CANARY_SIGNATURE"]]
    if kind == "header":
        return headers.get("X-Api-Key") == SECRETS["CANARY_HEADER"]
    expected = f"Basic {basic}" if kind == "basic" else f"Bearer {SECRETS['CANARY_BEARER']}"
    return headers.get("Authorization") == expected


@contextmanager
def private_site() -> Iterator[Site]:
    """The server."""
    with serving(served_files()) as site:
        site.opens = opens
        site.always = {"X-Repo-Commit": HUB_COMMIT, "X-Error-Code": "EntryNotFound"}
        yield site


def environment(folder: Path, site: Site) -> dict[str, str]:
    """The variables that hold the canaries."""
    signed = f"{site.url}/signed/story.txt.gz?part=1&X-Amz-Expires=60&X-Amz-Signature={SECRETS['CANARY_SIGNATURE']}"
    return {**SECRETS, "CANARY_SIGNED": signed, "HF_ENDPOINT": site.url, "HF_HOME": str(folder / "hf")}


def recipe(folder: Path, site: Site, *, with_hub: bool) -> Path:
    """A recipe of the tiny model that reads every kind of source from the server, and perhaps from it as the hub."""
    places = [
        ("lines", "jsonl", "bearer/notes.jsonl", {"env": "CANARY_BEARER"}),
        ("rows", "parquet", "basic/rows.parquet", {"env": "CANARY_BASIC", "kind": "basic"}),
        ("web", "warc", "header/pages.warc.gz", {"env": "CANARY_HEADER", "kind": "header", "header": "X-Api-Key"}),
        ("story", "text", "signed/story.txt.gz?part=1", {"env": "CANARY_SIGNED", "kind": "signed"}),
    ]
    sources: list[dict[str, object]] = [
        {"name": name, "kind": kind, "paths": [f"{site.url}/{path}"], "credential": credential}
        for name, kind, path, credential in places
    ]
    sources.append(
        {"name": "archives", "kind": "common-crawl", "path_list": f"{site.url}/bearer/wet.paths.gz",
         "base_url": f"{site.url}/bearer/", "credential": {"env": "CANARY_BEARER"}}
    )  # fmt: skip
    if not with_hub:
        return written(folder, sources, [{"kind": "definitions"}])
    hub: dict[str, object] = {"dataset": "me/rows", "revision": HUB_COMMIT, "credential": {"env": "CANARY_BEARER"}}
    sources.append({"name": "hub", "kind": "dataset", **hub})
    return written(folder, sources, [{"kind": "definitions"}, {"kind": "chat", **hub}])


def written(folder: Path, sources: list[dict[str, object]], examples: list[dict[str, object]]) -> Path:
    """The recipe as a file."""
    values = {"extends": str(REPOSITORY / "tests/flows/tiny.yaml"), "name": "canary", "crawl": None}
    path = folder / "canary.yaml"
    path.write_text(json.dumps({**values, "ingest": {"sources": sources}, "instruct": {"sources": examples}}))
    return path
