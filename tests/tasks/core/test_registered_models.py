"""A registered version as other programs load it: transformers from its folder, and MLflow by its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.counts import Counts
from llm.files import write_text
from llm.model.gpt import GPT, GPTConfig
from llm.serve.answer import LoadedModel
from tasks.core.fingerprint import Code, Key
from tasks.core.registry import register
from tasks.core.store import Store
from tasks.core.tracking import Tracker
from tests.flows.chat_models import add_model
from tests.llm.serve.serving import LABELS, save_classifier, tiny_classifier

pytestmark = pytest.mark.filterwarnings("ignore")  # of alembic and sqlalchemy, inside MLflow; of transformers

TEXT = "What does the baker do?"


@pytest.fixture
def mlflow(mlflow_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MLflow as a person's own program uses it."""
    import mlflow

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    mlflow.set_tracking_uri(mlflow_uri)
    yield mlflow
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri("")  # what it was was made from the address for runs


def downloaded(mlflow: Any, name: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(f"models:/{name}@candidate"))


@pytest.mark.parametrize("architecture", ["gpt2", "modern"])
def test_a_language_model_loads_by_its_name_and_from_its_folder(
    architecture: str, store: Store, tiny: LoadedModel, mlflow: Any, mlflow_uri: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shape = {"vocab_size": tiny.tokenizer.vocab_size, "context_length": 40, "n_layers": 1, "n_heads": 2, "d_model": 16}
    model = GPT(GPTConfig(architecture=architecture, **shape)).eval()
    with torch.no_grad():
        model.token_embedding.weight.mul_(8)
    loaded = LoadedModel("tiny", model, tiny.tokenizer, is_chat=True, created=0)
    name = f"sourdough-{architecture}-chat"
    artifact = add_model(store, "finetune", loaded, {"of": architecture})
    assert register(Tracker(mlflow_uri), name, artifact, store, None)
    folder = downloaded(mlflow, name)
    assert len(list(folder.rglob("*.safetensors"))) == 1
    ids = torch.tensor([loaded.text_prompt(TEXT)])
    ask = mlflow.transformers.load_model(f"models:/{name}@candidate")
    parts = mlflow.transformers.load_model(f"models:/{name}@candidate", return_type="components")
    plain = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for theirs, tokenizer in ((ask.model, ask.tokenizer), (parts["model"], parts["tokenizer"]), plain):
        assert tokenizer(TEXT, return_tensors="pt").input_ids.tolist() == ids.tolist()
        with torch.no_grad():
            assert (theirs(ids).logits - model(ids)).abs().max() < 1e-5
    [answer] = ask(TEXT, do_sample=False, return_full_text=False)
    assert isinstance(answer["generated_text"], str)


def test_a_classifier_loads_as_one(store: Store, mlflow: Any, mlflow_uri: str) -> None:
    loaded = tiny_classifier()
    key = Key("classify", 1, {}, [], Code("", {}))
    out_dir = store.new_out_dir("classify", key.fingerprint)
    save_classifier(loaded, out_dir)
    artifact = store.commit(out_dir, key, Counts("texts", 5, 5), provenance={}, facts={"makes": "classifier"})
    assert artifact.makes == "classifier"
    assert register(Tracker(mlflow_uri), "sourdough-x-classifier", artifact, store, None)
    ask = mlflow.transformers.load_model("models:/sourdough-x-classifier@candidate")
    assert type(ask.model).__name__ == "GPT2ForSequenceClassification"
    [expected] = [item for batch in loaded.predictions([TEXT]) for item in batch]
    found = {item["label"]: item["score"] for item in ask(TEXT, top_k=None)}
    assert found == pytest.approx(dict(zip(LABELS, expected.probabilities, strict=True)), abs=1e-5)


def test_a_version_holds_merged_weights_and_no_adapter(
    store: Store, tiny: LoadedModel, mlflow: Any, mlflow_uri: str
) -> None:
    """Beside an adapter transformers would load the model that it names as its base instead of this one."""
    artifact = add_model(store, "finetune", tiny, {"of": "adapter"})
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        write_text(artifact.path / name, "{}")
    assert register(Tracker(mlflow_uri), "sourdough-adapter-chat", artifact, store, None)
    names = {path.name for path in downloaded(mlflow, "sourdough-adapter-chat").iterdir()}
    assert "model.safetensors" in names
    assert not {name for name in names if name.startswith("adapter")}


def test_an_architecture_of_our_own_keeps_our_files(
    store: Store, tiny: LoadedModel, mlflow: Any, mlflow_uri: str
) -> None:
    shape = {"vocab_size": tiny.tokenizer.vocab_size, "context_length": 16, "n_layers": 1, "n_heads": 2, "d_model": 16}
    model = GPT(GPTConfig(architecture="speedrun", **shape)).eval()
    artifact = add_model(store, "pretrain", LoadedModel("tiny", model, tiny.tokenizer, is_chat=False, created=0), {})
    tracker = Tracker(mlflow_uri)
    assert register(tracker, "sourdough-speedrun-base", artifact, store, None)
    assert tracker.on
    folder = downloaded(mlflow, "sourdough-speedrun-base")
    files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in folder.iterdir()) == ["MODEL_CARD.md", *files]
    assert all((folder / file).read_bytes() == (artifact.path / file).read_bytes() for file in files)
