import math

import pytest
import torch
from torch.nn import functional as F

from llm.model.gpt import GPT, GPTConfig, KeyValueCache, attention_weights, causal_mask, fused_attention

TOLERANCE = 1e-5
"""Of float32 logits of size about 1, computed in another order."""


def hugging_face_weights(model: GPT) -> dict[str, torch.Tensor]:
    """Our weights under GPT-2's names; its Conv1D layers hold the transpose of a linear layer's matrix."""
    ours = model.state_dict()
    theirs = {
        "transformer.wte.weight": ours["token_embedding.weight"],
        "lm_head.weight": ours["token_embedding.weight"],
    }
    theirs["transformer.wpe.weight"] = ours["position_embedding.weight"]
    for kind in ("weight", "bias"):
        theirs[f"transformer.ln_f.{kind}"] = ours[f"norm.{kind}"]
        for i in range(model.config.n_layers):
            a, b = f"blocks.{i}.", f"transformer.h.{i}."
            parts = [ours[f"{a}attention.{name}.{kind}"] for name in ("query", "key", "value")]
            theirs[f"{b}attn.c_attn.{kind}"] = torch.cat(parts).t()
            theirs[f"{b}attn.c_proj.{kind}"] = ours[f"{a}attention.projection.{kind}"].t()
            theirs[f"{b}mlp.c_fc.{kind}"] = ours[f"{a}mlp.expand.{kind}"].t()
            theirs[f"{b}mlp.c_proj.{kind}"] = ours[f"{a}mlp.projection.{kind}"].t()
            theirs[f"{b}ln_1.{kind}"], theirs[f"{b}ln_2.{kind}"] = ours[f"{a}norm_1.{kind}"], ours[f"{a}norm_2.{kind}"]
    return theirs


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of transformers' own imports
def test_logits_equal_those_of_transformers_gpt2(tiny_model, tokens):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = tiny_model.config
    reference = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.context_length,
            n_embd=config.d_model,
            n_layer=config.n_layers,
            n_head=config.n_heads,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).eval()
    reference.load_state_dict(hugging_face_weights(tiny_model))
    with torch.no_grad():
        difference = (tiny_model(tokens) - reference(tokens).logits).abs().max()
    assert difference < TOLERANCE


@pytest.mark.parametrize(("n_queries", "n_keys"), [(7, 7), (1, 7), (3, 7), (1, 1)])
def test_fused_attention_equals_the_reading_form(n_queries, n_keys):
    draw = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, 3, n, 8, generator=draw) for n in (n_queries, n_keys, n_keys))
    by_formula = attention_weights(query, key) @ value
    torch.testing.assert_close(fused_attention(query, key, value), by_formula, atol=TOLERANCE, rtol=0)


def test_training_and_evaluation_attend_alike(tiny_model):
    """On a CPU they take different kernels."""
    attention = tiny_model.blocks[0].attention
    x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(attention(x), attention(x.clone().requires_grad_()), atol=TOLERANCE, rtol=0)


def test_attention_weights_are_those_that_the_layers_use(tiny_model, tokens):
    maps = list(tiny_model.attention_weights(tokens))
    assert [tuple(each.shape) for each in maps] == [(3, 3, 12, 12)] * 2
    for each in maps:
        torch.testing.assert_close(each.sum(-1), torch.ones(3, 3, 12))
        assert each.triu(1).abs().max() == 0
    second = tiny_model.blocks[1]
    entering = second.norm_1(tiny_model.blocks[0](tiny_model.embed(tokens)))
    torch.testing.assert_close(maps[1], second.attention.weights(entering))


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


def test_causal_mask_of_queries_that_come_last():
    assert causal_mask(2, 4, torch.device("cpu")).tolist() == [[True, True, True, False], [True] * 4]


def test_first_loss_is_that_of_guessing():
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=1000, context_length=32, n_layers=3, n_heads=2, d_model=64)
    model, tokens = GPT(config), torch.randint(1000, (8, 33))
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(1000), rel=0.05)


@pytest.mark.parametrize("std", [0.02, 0.06])
def test_initial_weights_have_the_stated_spread(std):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=1000, context_length=64, n_layers=8, n_heads=2, d_model=64, init_std=std))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0, name
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name
        else:
            expected = std / math.sqrt(16) if name.endswith("projection.weight") else std
            assert parameter.std().item() == pytest.approx(expected, rel=0.1), name  # of 4,096 draws or more
            assert abs(parameter.mean().item()) < expected / 10, name


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=50, context_length=8, n_layers=1, n_heads=2, d_model=16, dropout=0.5))
    tokens = torch.arange(8)[None]
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_more_tokens_than_the_context_are_refused(tiny_model):
    with pytest.raises(ValueError, match="13 tokens are more than context_length, which is 12"):
        tiny_model(torch.zeros(1, 13, dtype=torch.int64))
    cache = KeyValueCache(tiny_model)
    tiny_model(torch.zeros(1, 12, dtype=torch.int64), cache)
    with pytest.raises(ValueError, match="13 tokens"):
        tiny_model(torch.zeros(1, 1, dtype=torch.int64), cache)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="d_model is 10; it must be a multiple of n_heads, which is 3"):
        GPTConfig(vocab_size=5, context_length=4, n_layers=1, n_heads=3, d_model=10)
