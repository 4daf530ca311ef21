import hashlib
import math

import pytest
import torch
from torch.nn import functional as F

from llm.model.gpt import (
    GPT,
    GPTConfig,
    KeyValueCache,
    attention_in_pieces,
    attention_weights,
    causal_mask,
    fused_attention,
    plain_attention,
    soft_capped,
)
from llm.model.presets import PRESETS

TOLERANCE = 1e-5
"""Of float32 logits of size about 1, computed in another order."""


@pytest.mark.parametrize("n_kv_heads", [6, 3, 2, 1])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(7, 7), (1, 7), (3, 7), (1, 1)])
def test_fused_attention_equals_the_formula(n_queries, n_keys, n_kv_heads):
    draw = torch.Generator().manual_seed(3)
    query = torch.randn(2, 6, n_queries, 8, generator=draw)
    key, value = torch.randn(2, 2, n_kv_heads, n_keys, 8, generator=draw)
    expected = plain_attention(query, key, value)
    torch.testing.assert_close(fused_attention(query, key, value), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("n_queries", "n_keys"), [(7, 7), (6, 6), (3, 7), (2, 2)])
def test_attention_in_pieces_equals_the_formula(n_queries, n_keys, monkeypatch):
    monkeypatch.setattr("llm.model.gpt.PIECE", 3)
    draw = torch.Generator().manual_seed(3)
    query = torch.randn(2, 4, n_queries, 8, generator=draw)
    key, value = torch.randn(2, 2, 2, n_keys, 8, generator=draw)
    expected = plain_attention(query, key, value)
    torch.testing.assert_close(attention_in_pieces(query, key, value), expected, atol=TOLERANCE, rtol=0)


def test_training_and_evaluation_attend_alike(tiny_model):
    """On a CPU they take different kernels."""
    attention = tiny_model.blocks[0].attention
    _, rotation = tiny_model.embed(torch.zeros(2, 7, dtype=torch.int64))
    x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(3))
    by_formula = attention(x.clone().requires_grad_(), rotation)
    torch.testing.assert_close(attention(x, rotation), by_formula, atol=TOLERANCE, rtol=0)


def test_gradients_of_both_forms_are_alike():
    draw = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, n, 7, 8, generator=draw, requires_grad=True) for n in (6, 2, 2))
    towards = torch.randn(2, 6, 7, 8, generator=draw)
    plain, fused = (
        torch.autograd.grad((attend(query, key, value) * towards).sum(), (query, key, value))
        for attend in (plain_attention, fused_attention)
    )
    for one, other in zip(plain, fused, strict=True):
        torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=0)


def test_attention_weights_are_those_that_the_layers_use(tiny_model, tokens):
    n_heads = tiny_model.config.n_heads
    maps = list(tiny_model.attention_weights(tokens))
    assert [tuple(each.shape) for each in maps] == [(3, n_heads, 12, 12)] * tiny_model.config.n_layers
    for each in maps:
        torch.testing.assert_close(each.sum(-1), torch.ones(3, n_heads, 12))
        assert each.triu(1).abs().max() == 0
    first, second = tiny_model.blocks[:2]
    embedded, rotation = tiny_model.embed(tokens)
    x, token_values = tiny_model.enter(0, embedded, embedded, tokens)
    x, _ = tiny_model.enter(1, first(x, rotation, None, token_values), embedded, tokens)
    query, key = second.attention.query_and_key(second.norm_1(x), rotation)
    torch.testing.assert_close(maps[1], attention_weights(query, key))


@pytest.mark.parametrize("changed", [0, 5, 11])
def test_a_later_token_changes_no_earlier_logits(tiny_model, tokens, changed):
    other = tokens.clone()
    other[:, changed] = (other[:, changed] + 1) % tiny_model.config.vocab_size
    with torch.no_grad():
        before, after = tiny_model(tokens), tiny_model(other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert ((before[:, changed:] - after[:, changed:]).abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("cuts", [[1] * 12, [5, 1, 1, 5], [3, 9], [12]])
def test_logits_through_the_cache_equal_those_of_one_pass(tiny_model, tokens, cuts):
    cache = KeyValueCache(tiny_model, batch_size=3)
    with torch.no_grad():
        parts = [tiny_model(part, cache) for part in tokens.split(cuts, dim=1)]
        whole = tiny_model(tokens)
    assert cache.n_tokens == 12
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=TOLERANCE, rtol=0)


def test_the_cache_holds_no_more_heads_than_there_are_keys():
    config = GPTConfig.preset("modern-1b", n_layers=1, vocab_size=10)
    with torch.device("meta"):
        cache = KeyValueCache(GPT(config), batch_size=2)
    assert tuple(cache.keys.shape) == tuple(cache.values.shape) == (1, 2, 8, 2048, 128)


def test_causal_mask_of_queries_that_come_last():
    assert causal_mask(2, 4, torch.device("cpu")).tolist() == [[True, True, True, False], [True] * 4]


@pytest.mark.parametrize("tied_head", [True, False])
@pytest.mark.parametrize("architecture", ["gpt2", "modern", "speedrun"])
def test_first_loss_is_that_of_guessing(architecture, tied_head):
    torch.manual_seed(0)
    config = GPTConfig.preset("demo", architecture=architecture, tied_head=tied_head)
    model, tokens = GPT(config), torch.randint(config.vocab_size, (4, 65))
    with torch.no_grad():
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(config.vocab_size), rel=0.05)


def test_speedrun_starts_as_if_it_had_no_shortcuts_and_knew_no_token_from_another():
    config = GPTConfig.preset("demo", architecture="speedrun", tied_head=False)
    model = GPT(config)
    assert model.head.weight.abs().max() == 0
    assert model.shortcuts.of_stream.tolist() == [1.0] * 4
    assert model.shortcuts.of_embedding.tolist() == [0.0] * 4
    assert list(model.shortcuts.values) == ["1", "3"]
    assert [config.has_value_embedding(layer) for layer in range(4)] == [False, True, False, True]


def test_logits_of_speedrun_stay_below_the_cap_and_small_ones_as_they_are():
    logits = torch.tensor([-1000.0, -0.1, 0.1, 1000.0], dtype=torch.float64)
    capped = soft_capped(logits, 20.0)
    torch.testing.assert_close(capped, torch.tensor([-20.0, -0.1, 0.1, 20.0], dtype=torch.float64), atol=1e-5, rtol=0)
    assert soft_capped(logits, None) is logits
    model = GPT(GPTConfig.preset("demo", architecture="speedrun", init_std=3.0, n_layers=1))
    with torch.no_grad():
        assert 19 < model(torch.arange(64)[None]).abs().max() <= 20


@pytest.mark.parametrize("architecture", ["gpt2", "modern"])
@pytest.mark.parametrize("std", [0.02, 0.06])
def test_initial_weights_have_the_stated_spread(std, architecture):
    torch.manual_seed(0)
    shape = {"vocab_size": 1000, "context_length": 64, "n_layers": 8, "n_heads": 2, "d_model": 64, "tied_head": False}
    for name, parameter in GPT(GPTConfig(**shape, architecture=architecture, init_std=std)).named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0, name
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name
        else:
            expected = std / math.sqrt(16) if name.endswith("projection.weight") else std
            assert parameter.std().item() == pytest.approx(expected, rel=0.1), name  # of 4,096 draws or more
            assert abs(parameter.mean().item()) < expected / 10, name


def test_a_seed_gives_the_weights_that_it_always_gave():
    """Those of the model that the recorded results were made with. The hash is over the signs of the weights in their
    order, since their last bits depend on the vector instructions of the CPU. To make it again, run this test's lines.
    """
    torch.manual_seed(0)
    model, signs = GPT(GPTConfig.preset("demo")), hashlib.sha256()
    for parameter in model.parameters():
        signs.update((parameter < 0).numpy().tobytes())
    assert signs.hexdigest() == "a43cda673ff3387572b7af38313673b4c5963d868d95e155ef9d9f9420ce549d"


@pytest.mark.parametrize("architecture", ["gpt2", "modern"])
def test_dropout_acts_in_training_only(architecture):
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "context_length": 8, "n_layers": 1, "n_heads": 2, "d_model": 16}
    model, tokens = GPT(GPTConfig(**shape, architecture=architecture, dropout=0.5)), torch.arange(8)[None]
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_autocast_leaves_norms_and_positions_in_full_precision(tiny_model, tokens):
    """In bfloat16 the logits differ by about its relative step of 1/256, not by more."""
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rough = tiny_model(tokens).float()
    with torch.no_grad():
        exact = tiny_model(tokens)
    assert 0 < (rough - exact).abs().mean() < exact.std() * 4 / 256


def test_weights_in_bfloat16(tiny_model, tokens):
    exact = tiny_model(tokens)
    rough = tiny_model.bfloat16()(tokens, KeyValueCache(tiny_model, batch_size=3))
    assert rough.dtype == torch.bfloat16
    assert 0 < (rough - exact).abs().mean() < exact.std() * 8 / 256


def test_more_tokens_than_the_context_are_refused(tiny_model):
    with pytest.raises(ValueError, match="13 tokens are more than context_length, which is 12"):
        tiny_model(torch.zeros(1, 13, dtype=torch.int64))
    cache = KeyValueCache(tiny_model)
    tiny_model(torch.zeros(1, 12, dtype=torch.int64), cache)
    with pytest.raises(ValueError, match="13 tokens"):
        tiny_model(torch.zeros(1, 1, dtype=torch.int64), cache)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_heads": 5}, "d_model is 24; it must be a multiple of n_heads, which is 5"),
        ({"n_heads": 5, "head_dim": 4}, "d_model is 24; it must be a multiple of n_heads"),
        ({"n_kv_heads": 2}, "n_kv_heads is 2; in gpt2 it can only be 4: leave it out"),
        ({"head_dim": 8}, "head_dim is 8; in gpt2 it can only be 6"),
        ({"architecture": "modern", "n_kv_heads": 3}, "n_kv_heads is 3; it must divide n_heads, which is 4"),
        ({"architecture": "modern", "head_dim": 5}, "head_dim is 5; RoPE rotates pairs"),
        ({"architecture": "llama"}, "architecture is 'llama'; allowed: 'gpt2', 'modern', 'speedrun'"),
        ({"d_mlp": 0}, "d_mlp is 0; allowed: 1 or more"),
    ],
)
def test_shapes_that_cannot_be_are_refused(fields, message):
    shape = {"vocab_size": 5, "context_length": 4, "n_layers": 1, "n_heads": 4, "d_model": 24}
    with pytest.raises(ValueError, match=message):
        GPTConfig(**shape | fields)


def test_presets_take_other_values_and_widths_follow():
    config = GPTConfig.preset("30m", architecture="modern", d_model=384, n_heads=6, vocab_size=100)
    assert (config.head_dim, config.n_kv_heads, config.d_mlp, config.norm_eps) == (64, 6, 1024, 1e-6)
    assert (config.n_layers, config.context_length, config.vocab_size) == (8, 512, 100)
    assert GPTConfig.preset("gpt2-124m").d_mlp == 3072


def test_an_unknown_preset_is_refused_with_the_near_name():
    with pytest.raises(ValueError, match=r"no preset 'gpt2-345m'; the presets are demo, .*; did you mean gpt2-3"):
        GPTConfig.preset("gpt2-345m")
    assert {"demo", "10m", "30m", "gpt2-124m", "gpt2-350m", "gpt2-774m", "gpt2-1.5b", "modern-1b"} == set(PRESETS)
