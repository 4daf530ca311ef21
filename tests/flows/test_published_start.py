"""Published weights through the stages, and what stops such a recipe before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from flows.__main__ import export
from flows.recipe import load_recipe
from llm.model.files import load_model
from llm.tokenizer.imported_tokenizer import import_tokenizer
from tests.flows.runs import TINY, Run, run_recipe
from tests.published_models import publish

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of transformers' own imports

FREE = [f"pretrain.model.{name}=" for name in ("n_layers", "n_heads", "d_model")]


def overrides(folder: Path, *more: str, n_tokens: int = 307) -> tuple[str, ...]:
    """Of the tiny recipe, which has a shape and a vocabulary of its own."""
    start = (f"pretrain.start_from={folder}", "pretrain.n_steps=0", f"tokenizer.vocab_size={n_tokens}")
    return (*start, *FREE, *more)


def test_an_imported_model_is_fine_tuned_evaluated_and_exported(tiny: Run, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    publish(tmp_path / "published", "gpt2")
    shutil.copytree(tiny.workspace, tmp_path / "workspace")
    run = run_recipe(tmp_path / "workspace", *overrides(tmp_path / "published"), from_stage="tokenizer")
    made, published = run.artifacts, tmp_path / "published"
    assert made["decontaminate"].digest == tiny.artifacts["decontaminate"].digest
    assert (made["tokenizer"].path / "tokenizer.json").read_text() == import_tokenizer(published).tokenizer.to_json()
    assert list(made["tokenizer"].manifest["external_files"]) == [str(published / "tokenizer.json")]
    assert sorted(made["pretrain"].manifest["external_files"]) == [
        str(published / name) for name in ("config.json", "model.safetensors", "tokenizer.json")
    ]
    assert "report" in made
    export(str(made["finetune"].path), tmp_path / "hf", "hf")
    model = load_model(made["finetune"].path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", local_files_only=True).eval()
    tokens = torch.arange(60)[None]
    with torch.no_grad():
        assert (theirs(tokens).logits - model(tokens)).abs().max() < 1e-5  # of float32 logits of size about 1
    assert not torch.equal(model.norm.weight, load_model(made["pretrain"].path).norm.weight)
    again = run_recipe(tmp_path / "workspace", *overrides(published))
    assert again.digests() == run.digests()


def test_a_recipe_takes_tokenizer_and_shape_from_the_start(tmp_path: Path) -> None:
    publish(tmp_path, "qwen3")
    recipe = load_recipe(TINY, overrides(tmp_path, n_tokens=309))
    assert (recipe.tokenizer.start_from, recipe.tokenizer.vocab_size) == (str(tmp_path), 309)
    assert recipe.published is not None
    assert recipe.published.n_layers == 2
    only = load_recipe(TINY, (f"tokenizer.start_from={tmp_path}", "tokenizer.vocab_size=309"))
    assert (only.tokenizer.vocab_size, only.published) == (309, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("pretrain.start_from=absent",), r"absent is no model in Hugging Face's layout: it has no config.json"),
        (("shard.context_length=73",), r"shard.context_length is 73, but .* reads 72 tokens: set that or less"),
        (("pretrain.model.n_layers=3",), r"model.n_layers is 3, but the model of start_from has n_layers 2"),
        (("tokenizer.vocab_size=512",), r"tokenizer.vocab_size is 512, but the tokenizer of start_from, .*, has 307"),
        (
            ("tokenizer.start_from=other",),
            r"tokenizer.start_from is 'other' and pretrain.start_from '.*': a model needs",
        ),
        (("scaling={budgets: [1e9], shapes: [{d_model: 16, n_layers: 1}]}",), r"scaling trains models from scratch"),
        (("pretrain.start_from=",), r"n_steps is 0; allowed: 1 or more, or 0 together with start_from"),
    ],
)
def test_what_does_not_go_together_is_named(tmp_path: Path, changes: tuple[str, ...], message: str) -> None:
    publish(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_recipe(TINY, overrides(tmp_path, *changes))


def test_a_start_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "tokenizer.json").rename(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"has no tokenizer.json: save the model's tokenizer there too"):
        load_recipe(TINY, overrides(tmp_path))
    (tmp_path / "gone").rename(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"model_type": "llama"}))
    with pytest.raises(ValueError, match=r"model_type is 'llama'; supported are 'gpt2'"):
        load_recipe(TINY, overrides(tmp_path))
