"""Folders for transformers: what it makes of ours, and what we make of its own."""

import json
import shutil

import pytest
import torch

from llm.model import export
from llm.model.export import to_gguf, to_hf
from llm.model.files import load_tensors, save_tensors
from llm.model.gpt import GPT, GPTConfig
from llm.model.hf_import import from_hf
from llm.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of transformers' own imports

TOLERANCE = 1e-5
"""Of float32 logits of size about 1, computed in another order."""

QWEN3 = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 50,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 16,
    "initializer_range": 0.3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}
GPT2 = {"vocab_size": 40, "n_positions": 16, "n_embd": 24, "n_layer": 3, "n_head": 4, "initializer_range": 0.3}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the cat sat on the mat, the dog ate 12 of the cat's mats "] * 20, 280)


def largest_difference(model: GPT, reference: torch.nn.Module) -> float:
    """Of the logits of two models for the same tokens."""
    shape = (2, model.config.context_length)
    tokens = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = model(tokens), reference(tokens).logits
    assert ours.std() > 0.3
    return (ours - theirs).abs().max().item()


def load_with_transformers(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)


def theirs(folder, kind="gpt2", **settings):
    """A random model of transformers, saved in `folder`."""
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0}
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(**GPT2 | special | settings)).eval()
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**QWEN3 | special | settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms and biases, which begin as 1 and 0
                parameter.add_(0.2 * torch.randn_like(parameter))
            assert parameter.std() > 0.05, name
    model.save_pretrained(folder)
    return model


def change(folder, **settings):
    """Other settings in the config of a saved model."""
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | settings))


def test_transformers_computes_what_we_compute(exportable_model, tmp_path):
    to_hf(exportable_model, tmp_path / "model")
    reference = load_with_transformers(tmp_path / "model")
    kind = "GPT2LMHeadModel" if exportable_model.config.architecture == "gpt2" else "Qwen3ForCausalLM"
    assert type(reference).__name__ == kind
    assert largest_difference(exportable_model, reference) < TOLERANCE


def test_transformers_computes_what_we_compute_at_late_positions(random_model_of, tmp_path):
    shape = {"vocab_size": 20, "context_length": 1024, "n_layers": 1, "n_heads": 2, "d_model": 32, "init_std": 0.2}
    model = random_model_of(GPTConfig(**shape, architecture="modern", rope_theta=1e6))
    to_hf(model, tmp_path / "model")
    assert largest_difference(model, load_with_transformers(tmp_path / "model")) < TOLERANCE


def test_an_exported_model_comes_back_the_same(exportable_model, tmp_path):
    to_hf(exportable_model, tmp_path / "model")
    before = torch.get_rng_state()
    back = from_hf(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)
    assert back.config == exportable_model.config
    assert not back.training
    weights = exportable_model.state_dict()
    assert weights.keys() == back.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in back.state_dict().items())


def test_the_same_model_gives_the_same_bytes(exportable_model, tmp_path):
    for name in ("a", "b"):
        to_hf(exportable_model, tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["config.json", "generation_config.json", "model.safetensors"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_tokenizer_goes_along(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    model = GPT(GPTConfig.preset("demo", n_layers=1, vocab_size=tokenizer.vocab_size + 8))
    to_hf(model, tmp_path / "model", tokenizer)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "model", local_files_only=True)
    text = "the cat's 1234 dögs\n sat"
    assert loaded(text).input_ids == [tokenizer.document_token, *tokenizer.encode(text)]
    reference = load_with_transformers(tmp_path / "model")
    assert (reference.config.bos_token_id, reference.config.eos_token_id) == (0, 5)
    assert reference.generation_config.eos_token_id == [5, 0]
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, 5, 1)
    new = reference.generate(torch.tensor([[0, 9]]), max_new_tokens=3, do_sample=False)
    assert new.shape[1] > 2


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tokenizer, tmp_path):
    model = GPT(GPTConfig.preset("demo", n_layers=1, vocab_size=270))
    with pytest.raises(ValueError, match="the tokenizer has 280 tokens, the model 270"):
        to_hf(model, tmp_path / "model", tokenizer)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [to_hf, to_gguf])
def test_speedrun_is_refused(write, random_model_of, tmp_path):
    config = GPTConfig(
        architecture="speedrun", vocab_size=31, context_length=12, n_layers=1, n_heads=2, d_model=16, d_mlp=16
    )
    with pytest.raises(ValueError, match=r"'speedrun' cannot be exported: it has value embeddings.* 'modern'"):
        write(random_model_of(config), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_nothing_is_left_half(exportable_model, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="there exists and is not overwritten"):
        to_hf(exportable_model, tmp_path / "there")

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(export, "save_tensors", full_disk)
    with pytest.raises(OSError, match="no space"):
        to_hf(exportable_model, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("kind", "settings"), [("gpt2", {}), ("gpt2", {"n_inner": 30}), ("qwen3", {})])
def test_we_compute_what_transformers_computes(kind, settings, tied, tmp_path):
    reference = theirs(tmp_path, kind, tie_word_embeddings=tied, **settings)
    model = from_hf(tmp_path)
    assert model.config.tied_head == tied
    assert largest_difference(model, reference) < TOLERANCE


def test_a_checkpoint_in_several_files(tmp_path):
    reference = theirs(tmp_path / "whole", "qwen3")
    reference.save_pretrained(tmp_path / "split", max_shard_size="8KB")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 2
    assert largest_difference(from_hf(tmp_path / "split"), reference) < TOLERANCE
    next((tmp_path / "split").glob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"model-.*safetensors is missing"):
        from_hf(tmp_path / "split")


def test_old_files_with_masks_short_names_and_half_precision(tmp_path):
    """As OpenAI's GPT-2 was published: without the first part of the names, with causal masks among the weights."""
    reference = theirs(tmp_path).bfloat16().float()
    weights = load_tensors(tmp_path / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor.bfloat16() for name, tensor in weights.items()}
    masks = {f"h.{i}.attn.{name}": torch.ones(1, 1, 16, 16) for i in range(3) for name in ("bias", "masked_bias")}
    save_tensors(old | masks, tmp_path / "model.safetensors")
    model = from_hf(tmp_path)
    assert model.token_embedding.weight.dtype == torch.float32
    assert largest_difference(model, reference) < TOLERANCE


def test_settings_as_transformers_4_wrote_them(tmp_path):
    reference = theirs(tmp_path, "qwen3")
    content = json.loads((tmp_path / "config.json").read_text())
    del content["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(content | {"rope_theta": 100.0, "rope_scaling": None}))
    assert largest_difference(from_hf(tmp_path), reference) < TOLERANCE


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("gpt2", {"model_type": "llama"}, r"model_type is 'llama'; supported are 'gpt2' .* and 'qwen3'"),
        ("gpt2", {"model_type": None}, "model_type is None; supported are"),
        ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu'; our model has only 'gelu_new'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ("gpt2", {"n_layer": 2}, r"the weights transformer\.h\.2\.\S+, .* \(12 in all\) have no place in our model"),
        ("gpt2", {"n_layer": 4}, r"do not fit config\.json: (.|\n)*Missing key.*blocks\.3"),
        ("gpt2", {"n_positions": 20}, r"do not fit config\.json: (.|\n)*size mismatch for position_embedding"),
        ("gpt2", {"n_head": 5}, "d_model is 24; it must be a multiple of n_heads"),
        ("qwen3", {"attention_bias": True}, "attention_bias is True; our model has only False"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'; our model has only 'default'"),
        ("qwen3", {"num_key_value_heads": 3}, "n_kv_heads is 3; it must divide n_heads"),
    ],
)
def test_what_our_model_does_not_have_is_refused(kind, settings, message, tmp_path):
    theirs(tmp_path, kind)
    change(tmp_path, **settings)
    with pytest.raises(ValueError, match=message):
        from_hf(tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path):
    theirs(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(OSError, match=r"model\.safetensors is damaged"):
        from_hf(tmp_path / "damaged")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing; pickled weights .* are not read"):
        from_hf(tmp_path / "model")
    shutil.copy(tmp_path / "damaged" / "model.safetensors", tmp_path / "model")
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    del content["n_embd"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"config\.json of a gpt2 model must have 'n_embd'"):
        from_hf(tmp_path / "model")
