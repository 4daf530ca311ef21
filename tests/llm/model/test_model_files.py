import dataclasses
import json

import pytest
import torch

from llm.model.files import load_model, save_model
from llm.model.gpt import GPT, GPTConfig


def test_a_saved_model_comes_back_the_same(tiny_model, tokens, tmp_path):
    save_model(tiny_model.train(), tmp_path, {"n_steps": 3})
    loaded = load_model(tmp_path)
    assert not loaded.training
    assert loaded.config == tiny_model.config
    assert torch.equal(loaded(tokens), tiny_model.eval()(tokens))
    assert json.loads((tmp_path / "config.json").read_text())["training"] == {"n_steps": 3}


def test_loading_draws_no_random_numbers(tiny_model, tmp_path):
    save_model(tiny_model, tmp_path, {})
    before = torch.get_rng_state()
    load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_weights_give_the_same_bytes(tiny_model, tmp_path):
    config = tiny_model.config
    other = GPT(GPTConfig(**dataclasses.asdict(config)))
    other.load_state_dict(dict(reversed(tiny_model.state_dict().items())))
    for name, model in (("a", tiny_model), ("b", other)):
        (tmp_path / name).mkdir()
        save_model(model, tmp_path / name, {"b": 1, "a": [0.1]})
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_weights_that_do_not_fit_the_config_are_refused(tiny_model, tmp_path):
    save_model(tiny_model, tmp_path, {})
    content = json.loads((tmp_path / "config.json").read_text())
    content["model"]["n_layers"] += 1
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"do(es)? not fit config\.json"):
        load_model(tmp_path)


def test_damaged_or_missing_weights_are_an_oserror_that_names_the_file(tiny_model, tmp_path):
    save_model(tiny_model, tmp_path, {})
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OSError, match=r"model\.safetensors is damaged"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load_model(tmp_path)
