"""Recipes: what extends what, and errors that name field, value and remedy."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from flows.recipe import Recipe, describe_fields, load_recipe
from llm.data.common.credential import CredentialConfig
from tests.published_models import publish

CRAWL = "crawl: {seeds: ['http://127.0.0.1:1/'], snapshot: s, allow_private: ['127.0.0.1:1']}\n"


INGEST = "ingest: {sources: [{name: notes, kind: text, paths: [notes.txt]}]}\n"


def recipe(folder: Path, text: str, name: str = "r.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_every_recipe_in_conf_loads(tmp_path: Path) -> None:
    paths = sorted(Path("conf").glob("*.yaml"))
    assert Path("conf/demo.yaml") in paths
    publish(tmp_path, n_positions=256)
    for path in paths:
        overrides = [f"pretrain.start_from={tmp_path}"] if path.stem == "start-from" else []
        assert load_recipe(path, overrides).name == path.stem


def test_a_line_break_can_be_given_as_the_shard_stages_error_says(tmp_path: Path) -> None:
    path = recipe(tmp_path, "name: r\n" + INGEST.replace("notes.txt", str(recipe(tmp_path, "a", "notes.txt"))))
    loaded = load_recipe(path, ['ingest.sources.0.separator="\\n\\n"'])
    assert loaded.ingest
    assert loaded.ingest.sources[0].separator == "\n\n"


def test_extends_and_overrides(tmp_path: Path) -> None:
    recipe(tmp_path, "name: base\n" + CRAWL + "clean: {min_chars: 100}\npretrain: {n_steps: 5}\n", "base.yaml")
    path = recipe(tmp_path, "extends: base.yaml\nname: child\nclean: {min_chars: 150}\n")
    loaded = load_recipe(path, ["pretrain.n_steps=7", "clean.languages=[de,fr]"])
    assert (loaded.name, loaded.clean.min_chars, loaded.pretrain.n_steps) == ("child", 150, 7)
    assert loaded.clean.languages == ("de", "fr")


def test_a_field_of_a_listed_source_can_be_overridden(tmp_path: Path) -> None:
    loaded = load_recipe(recipe(tmp_path, "name: r\n" + INGEST), ["ingest.sources.0.max_records=5"])
    assert loaded.ingest is not None
    assert loaded.ingest.sources[0].max_records == 5
    assert any(line.startswith("ingest.sources.max_records") for line in describe_fields("ingest"))


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("name: r\n" + CRAWL, ["clean.min_char=3"], r"clean\.min_char: unknown key; did you mean clean\.min_chars\?"),
        ("name: r\n" + CRAWL, ["cleen.min_chars=3"], r"cleen: unknown key; did you mean clean\?"),
        ("name: r\n" + CRAWL, ["clean.min_chars=-3"], r"min_chars is -3; allowed: 0 or more"),
        ("name: r\n" + CRAWL, ["clean.min_chars=many"], r"clean\.min_chars is 'many'.*integer"),
        ("name: r\n" + CRAWL, ["pretrain.loop.device=tpu"], r"device is 'tpu'.*'cpu'"),
        ("name: r\n" + CRAWL, ["pretrain.batch_tokens=1000"], r"pretrain\.batch_tokens is 1000; it must be a multiple"),
        ("name: r\n" + CRAWL, ["pretrain.model.n_heads=3"], r"d_model is 128; it must be a multiple of n_heads"),
        ("name: r\n" + CRAWL, ["min_chars"], r"'min_chars' is not of the form key=value"),
        (
            "name: r\n" + INGEST,
            ["ingest.sources.0.max_record=5"],
            r"max_record: unknown key; did you mean .*max_records\?",
        ),
        ("name: r\n" + INGEST, ["ingest.sources.7.max_records=5"], r"index out of range"),
        ("name: r\n" + CRAWL, ["pretrain.mixture={a: 1, b: 2}"], r"set shard\.keep_sources_apart: true"),
        ("name: r\n", [], r"has either a crawl or an ingest section; this one has neither"),
        ("name: r\ninstruct: null\n" + CRAWL, [], r"instruct and finetune make the chat model together"),
        (CRAWL, [], r"name: missing"),
        ("name: [\n", [], r"is not valid YAML"),
        ("- a\n- b\n", [], r"must hold `key: value` lines"),
        ("extends: nowhere.yaml\nname: r\n", [], r"there is no recipe .*nowhere\.yaml"),
        ("extends: r.yaml\nname: r\n", [], r"extends itself"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe(tmp_path, text), overrides)


def test_all_errors_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)min_char.*n_step") as caught:
        load_recipe(recipe(tmp_path, "name: r\n" + CRAWL), ["clean.min_char=3", "pretrain.n_step=3"])
    assert len(str(caught.value).splitlines()) == 3


def test_every_field_is_documented() -> None:
    lines = describe_fields()[:-1]
    keys, meanings = lines[::2], lines[1::2]
    undocumented = [key for key, meaning in zip(keys, meanings, strict=True) if not meaning.strip()]
    assert undocumented == []
    assert {key.split(" ")[0] for key in keys} >= {"crawl.seeds", "pretrain.model.n_layers", "engine.n_workers"}


def test_empty_has_one_name() -> None:
    *lines, last = describe_fields()
    assert last == "Empty is null or [] in a file, and `key=` on the command line."
    assert "pretrain.model.n_layers = empty" in lines
    assert "crawl.allow = empty" in lines
    others = re.compile(r"(?i)= none$|\bnull\b|^none:|; none:|\"\"")
    assert [line for line in lines if others.search(line)] == []


def test_a_section_for_every_stage() -> None:
    from flows.pipeline import PIPELINE

    sections = {field.name: field.type for field in dataclasses.fields(Recipe)}
    assert set(PIPELINE) <= set(sections)


CANARY = "c4n4ryS3cr3t"
SIGNED = f"https://h.example/a.jsonl?X-Amz-Signature={CANARY}"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (INGEST, [f"ingest.sources.0.paths=['{SIGNED}']"], r"ingest\.sources\.0: paths holds an address with a token"),
        (
            INGEST,
            [f"name=https://me:{CANARY}@h/"],
            r"name holds an address with a user name.*credential\.env",
        ),
        (INGEST, [f"https://me:{CANARY}@h/"], r"override 'https://h/' is not of the form"),
        (INGEST, [f"ingest.sources.0.max_records={SIGNED}"], r"max_records is 'https://h\.example/a\.jsonl'"),
        (INGEST, [f"ingest.sources.9.paths={SIGNED}"], r"ingest\.sources\.9\.paths=https://h\.example/a\.jsonl'\]: "),
        (INGEST, [f"ingest.sources.0.token={CANARY}"], r"token: unknown key"),
        (
            INGEST,
            [f"ingest.sources.0.credential={CANARY}"],
            r"credential is one value; .*\.credential\.env, ",
        ),
        (INGEST, [f"ingest.sources.0.credential.env={CANARY}"], r"env is no name of an environment variable"),
        (f"paths: [a: '{SIGNED}', }}\n", [], r"is not valid YAML"),
        (
            "shard: {x: '${oc.env:CANARY}'}\n" + INGEST,
            [],
            r"\$\{oc\.env:CANARY\} is not allowed in a recipe",
        ),
        (INGEST, ["clean.min_chars=${ oc.env : CANARY , 3}"], r"not allowed .*credential\.env=CANARY , 3"),
    ],
)
def test_a_credential_in_a_recipe_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, overrides: list[str], message: str
) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(recipe(tmp_path, "name: r\n" + text), overrides)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None, "a traceback would show it"


def test_a_credential_is_named_and_other_interpolations_stay(tmp_path: Path) -> None:
    path = recipe(tmp_path, "name: r\n" + INGEST + "clean: {min_chars: '${shard.context_length}'}\n" + SHARD)
    changed = ["ingest.sources.0.paths=[https://h.example/a.txt]", "ingest.sources.0.credential.env=CORPUS_TOKEN"]
    loaded = load_recipe(path, changed)
    assert loaded.ingest is not None
    assert loaded.ingest.sources[0].credential == CredentialConfig(env="CORPUS_TOKEN")
    assert loaded.clean.min_chars == loaded.shard.context_length == 128


SHARD = "shard: {context_length: 128}\n"
