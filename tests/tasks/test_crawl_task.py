"""The crawl stage's own part: which earlier crawl it builds on; and the recipe that newcomers copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llm.config import from_dict, identity
from llm.counts import Counts
from llm.data.web.config import CrawlConfig
from tasks.core.fingerprint import Code, Key
from tasks.core.session import Session, running
from tasks.core.store import Artifact, Store
from tasks.core.workspace import REPOSITORY
from tasks.crawl import newest_crawl


def config(*seeds: str, snapshot: str = "1") -> CrawlConfig:
    return CrawlConfig(seeds=seeds, snapshot=snapshot, user_agent="test (me@a.example)")


def build(store: Store, made: CrawlConfig, started: str) -> Artifact:
    key = Key("crawl", 1, identity(made), [], Code("", {}))
    out_dir = store.new_out_dir("crawl", key.fingerprint)
    (out_dir / "pages.warc.gz").write_text(started)
    return store.commit(out_dir, key, Counts("urls", 1, 1), provenance={"started": started})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_the_newest_sound_crawl_of_the_same_seeds_is_built_upon(store: Store) -> None:
    ours = config("http://a.example/", "http://b.example/", snapshot="today")
    with running(Session(store)):
        assert newest_crawl(ours) is None
        oldest = build(store, config("http://b.example/", "http://a.example/", snapshot="1"), "2026-01")
        newer = build(store, config("http://a.example/", "http://b.example/", snapshot="2"), "2026-02")
        build(store, config("http://a.example/", snapshot="3"), "2026-03")
        assert newest_crawl(ours) == newer
        (newer.path / "pages.warc.gz").unlink()
        assert newest_crawl(ours) == oldest


def test_the_recipe_to_copy_is_a_valid_one_and_names_a_contact() -> None:
    text = (REPOSITORY / "conf/own-site.yaml").read_text()
    section = yaml.safe_load(text)["crawl"]
    made = from_dict(CrawlConfig, section)
    assert "+https://" in made.user_agent
    assert set(section) <= {"seeds", "user_agent", "snapshot", "max_pages", "delay_s", "deny"}
    offered = yaml.safe_load(
        "\n".join(line.replace("  # ", "", 1) for line in text.splitlines() if line.startswith("  # "))
    )
    from_dict(CrawlConfig, {**section, **offered})
