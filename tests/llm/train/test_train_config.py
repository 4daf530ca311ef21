import json
from dataclasses import asdict

import pytest

from llm.config import from_dict
from llm.train.config import LoopConfig, ModelShape, OptimizerConfig, PretrainConfig, result_settings
from llm.train.methods.config import FinetuneConfig


@pytest.mark.parametrize("config", [PretrainConfig(sample_prompts=("a", "b")), FinetuneConfig(n_steps=3)])
def test_a_config_survives_json(config):
    assert from_dict(type(config), json.loads(json.dumps(asdict(config)))) == config


def test_result_settings_hold_all_but_how_a_run_is_executed():
    settings = result_settings(PretrainConfig(loop=LoopConfig(device="cpu", n_threads=3, log_every=7)))
    assert settings == result_settings(PretrainConfig())
    assert settings["optimizer.learning_rate"] == PretrainConfig().optimizer.learning_rate
    assert settings["loop.micro_batch_size"] == PretrainConfig().loop.micro_batch_size
    assert not {"loop.device", "loop.n_threads", "loop.log_every"} & settings.keys()
    assert settings != result_settings(PretrainConfig(loop=LoopConfig(seed=1)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerConfig(schedule="steps"), "schedule is 'steps'; allowed: 'wsd', 'cosine', 'linear'"),
        (lambda: ModelShape(architecture="qwen"), "architecture is 'qwen'; allowed: 'gpt2', 'modern', 'speedrun'"),
        (lambda: ModelShape(d_model=0), "d_model is 0; allowed: 1 or more"),
        (lambda: LoopConfig(precision="fp8"), "precision is 'fp8'; allowed"),
        (lambda: LoopConfig(device="tpu"), "device is 'tpu'; allowed"),
        (lambda: PretrainConfig(n_steps=0), "n_steps is 0; allowed: 1 or more"),
    ],
)
def test_wrong_values_are_named_with_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()
