"""Tests of low-rank adapters: what they compute, merging, and peft's layout."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from llm.model.export import to_hf
from llm.model.gpt import GPT, GPTConfig
from llm.model.lora import ADAPTER_CONFIG_FILE, ADAPTER_FILE, adapted_layers, add_lora, merge, save_adapter

ARCHITECTURES = ["gpt2", "modern"]
SHAPE = {"vocab_size": 61, "context_length": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_model": 32}
TOKENS = torch.arange(24).view(2, 12) * 7 % 61


def make_model(architecture: str, **changes: object) -> GPT:
    torch.manual_seed(0)
    n_kv_heads = 4 if architecture == "gpt2" else 2
    config = GPTConfig(**(SHAPE | {"architecture": architecture, "n_kv_heads": n_kv_heads} | changes))  # type: ignore[arg-type]
    return GPT(config).eval()


def learned(model: GPT) -> GPT:
    """The model with adapters as training might leave them."""
    torch.manual_seed(1)
    for layer in adapted_layers(model).values():
        torch.nn.init.normal_(layer.lora_b, std=0.1)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fresh_adapters_change_nothing_and_are_all_that_learns(architecture):
    model = make_model(architecture)
    with torch.no_grad():
        before = model(TOKENS)
        add_lora(model, rank=3, alpha=6.0)
        assert torch.equal(model(TOKENS), before)
    model(TOKENS).square().sum().backward()
    layers = adapted_layers(model)
    assert len(layers) == 2 * (6 if architecture == "gpt2" else 7)
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {f"{name}.lora_{part}" for name in layers for part in "ab"}
    assert all(layer.lora_b.grad.abs().sum() > 0 for layer in layers.values())


def test_a_layer_computes_the_formula():
    model = make_model("gpt2").double()
    add_lora(model, rank=3, alpha=6.0)
    layer = learned(model).blocks[1].mlp.expand
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    expected = F.linear(x, layer.weight + 6.0 / 3 * layer.lora_b @ layer.lora_a, layer.bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_merged_model_is_plain_and_does_the_same(architecture):
    model = make_model(architecture)
    names = set(model.state_dict())
    add_lora(model, rank=3, alpha=6.0)
    adapted = learned(model)(TOKENS)
    merge(model)
    assert set(model.state_dict()) == names
    assert not adapted_layers(model)
    torch.testing.assert_close(model(TOKENS), adapted, rtol=0, atol=2e-6)  # rounding of float32 sums in another order


def test_targets_are_the_ends_of_names():
    model = make_model("modern")
    add_lora(model, rank=2, alpha=4.0, targets=("query", "mlp.projection"))
    ends = {name.split(".", 2)[2] for name in adapted_layers(model)}
    assert ends == {"attention.query", "mlp.projection"}


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(ValueError, match=r"lora.targets has 'gate'; allowed here: attention.key, .*mlp.expand"):
        add_lora(make_model("gpt2"), rank=2, alpha=4.0, targets=("query", "gate"))
    with pytest.raises(ValueError, match="lora is for the architectures gpt2, modern; this is speedrun"):
        add_lora(make_model("speedrun"), rank=2, alpha=4.0)


TARGETS = [None, ("query", "value", "mlp.expand")]


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_saved_adapter_is_the_difference_of_the_exported_models(architecture, targets, tmp_path):
    """Exported before and after merging, transformers' weights differ by scale B A, as peft's files say them."""
    model = make_model(architecture)
    to_hf(model, tmp_path / "base")
    add_lora(model, rank=3, alpha=6.0, targets=targets)
    save_adapter(learned(model), tmp_path, "base")
    merge(model)
    to_hf(model, tmp_path / "merged")
    base, merged = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    adapter, config = load_file(tmp_path / ADAPTER_FILE), json.loads((tmp_path / ADAPTER_CONFIG_FILE).read_text())
    changed = {name for name, tensor in base.items() if not torch.equal(tensor, merged[name])}
    places = {name.removeprefix("base_model.model.").rsplit(".", 2)[0] for name in adapter}
    assert changed == {f"{place}.weight" for place in places}
    for place in places:
        a, b = (adapter[f"base_model.model.{place}.lora_{part}.weight"] for part in "AB")
        [target] = [name for name in config["target_modules"] if place.endswith(f".{name}")]
        rank = config["rank_pattern"].get(target, config["r"])
        assert len(a) == rank
        update = config["alpha_pattern"].get(target, config["lora_alpha"]) / rank * (b @ a)
        update = update.T if config["fan_in_fan_out"] else update
        difference = merged[f"{place}.weight"] - base[f"{place}.weight"]
        torch.testing.assert_close(difference, update, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")  # both files hold the same
@pytest.mark.parametrize(
    "options", [{}, {"targets": TARGETS[1]}, {"embeddings": True}, {"embeddings": True, "tied": False}]
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_peft_loads_the_adapter_on_the_exported_model(architecture, options, tmp_path: Path, monkeypatch):
    import peft  # with transformers it takes seconds
    import transformers

    model = make_model(architecture, tied_head=options.get("tied", True))
    to_hf(model, tmp_path / "base")
    add_lora(model, rank=3, alpha=6.0, targets=options.get("targets"), embeddings=options.get("embeddings", False))
    if "embeddings" in options:
        with torch.no_grad():
            model.token_embedding.weight.add_(0.1)
            model.head_weight.mul_(1.1)
    (tmp_path / "adapter").mkdir()
    save_adapter(learned(model), tmp_path / "adapter", "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    monkeypatch.chdir(tmp_path)  # where the folder is that the adapter names as its base
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # else peft asks the Hub whether the adapter has a tokenizer
    alone = peft.AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        for loaded in (theirs, alone):
            torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS), rtol=0, atol=2e-6)
