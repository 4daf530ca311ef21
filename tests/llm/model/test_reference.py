"""Layers and whole models against the formulas of their papers, written out in NumPy, float64.

The reference goes token by token and head by head, and turns complex numbers where the model turns pairs of numbers. It
shares no code with the model.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from llm.model.gpt import RMSNorm, plain_attention, rope_angles, rotate

TOLERANCE = 1e-10
"""Of float64 numbers of size about 1, computed in another order."""


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean()
    return centred / math.sqrt((centred**2).mean() + eps) * weight + bias


def rms_norm(x, weight, eps):
    return x / math.sqrt((x**2).mean() + eps) * weight


def turned(x, position, theta):
    """RoPE of one head at one position: complex number i is x[i] + i x[i + D / 2]."""
    half = len(x) // 2
    turns = np.exp(1j * position * theta ** (-2 * np.arange(half) / len(x)))
    points = (x[:half] + 1j * x[half:]) * turns
    return np.concatenate([points.real, points.imag])


def attention_of_one(query, keys, values):
    """What one token gathers from those it may see: one query, and as many keys and values as it may see."""
    scores = np.array([query @ key / math.sqrt(len(query)) for key in keys])
    weights = np.exp(scores - scores.max())
    return sum(weight * value for weight, value in zip(weights / weights.sum(), values, strict=True))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class Reference:
    """A whole model, computed from the weights of a `GPT` and its config."""

    def __init__(self, model):
        self.config = model.config
        self.weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}

    def linear(self, name, x):
        return self.weights[f"{name}.weight"] @ x + self.weights.get(f"{name}.bias", 0.0)

    def norm(self, name, x):
        weight = self.weights[f"{name}.weight"]
        if self.config.architecture != "gpt2":
            return rms_norm(x, weight, self.config.norm_eps)
        return layer_norm(x, weight, self.weights[f"{name}.bias"], self.config.norm_eps)

    def heads(self, name, x, position):
        """The heads of one token's queries, keys or values."""
        heads = self.linear(name, x).reshape(-1, self.config.head_dim)
        if self.config.architecture == "gpt2":
            return heads
        return [turned(self.norm(f"{name}_norm", head), position, self.config.rope_theta) for head in heads]

    def values(self, block, x, token):
        """The heads of one token's values; in speedrun, in every other layer, with the token's own added."""
        values = self.linear(f"blocks.{block}.attention.value", x)
        if self.config.architecture == "speedrun" and block % 2 == (self.config.n_layers - 1) % 2:
            values = values + self.weights[f"shortcuts.values.{block}.weight"][token]
        return values.reshape(-1, self.config.head_dim)

    def attention(self, block, xs, tokens):
        name = f"blocks.{block}.attention"
        queries, keys = ([self.heads(f"{name}.{kind}", x, t) for t, x in enumerate(xs)] for kind in ("query", "key"))
        values = [self.values(block, x, token) for x, token in zip(xs, tokens, strict=True)]
        group = self.config.n_heads // self.config.n_kv_heads
        gathered = []
        for t in range(len(xs)):
            parts = [
                attention_of_one(
                    queries[t][head],
                    [keys[s][head // group] for s in range(t + 1)],
                    [values[s][head // group] for s in range(t + 1)],
                )
                for head in range(self.config.n_heads)
            ]
            gathered.append(self.linear(f"{name}.projection", np.concatenate(parts)))
        return gathered

    def mlp(self, name, x):
        expanded = self.linear(f"{name}.expand", x)
        if self.config.architecture == "gpt2":
            return self.linear(f"{name}.projection", gelu_tanh(expanded))
        if self.config.architecture == "speedrun":
            return self.linear(f"{name}.projection", np.where(expanded > 0, expanded**2, 0))
        gate = self.linear(f"{name}.gate", x)
        return self.linear(f"{name}.projection", gate / (1 + np.exp(-gate)) * expanded)

    def logits(self, tokens):
        """Of one row of tokens, (T, V)."""
        embedding = self.weights["token_embedding.weight"]
        xs = [embedding[token] for token in tokens]
        if self.config.architecture == "gpt2":
            xs = [x + self.weights["position_embedding.weight"][t] for t, x in enumerate(xs)]
        first = xs
        for block in range(self.config.n_layers):
            name = f"blocks.{block}"
            if self.config.architecture == "speedrun":
                of_stream, of_embedding = (
                    self.weights[f"shortcuts.of_{part}"][block] for part in ("stream", "embedding")
                )
                xs = [of_stream * x + of_embedding * x0 for x, x0 in zip(xs, first, strict=True)]
            attended = self.attention(block, [self.norm(f"{name}.norm_1", x) for x in xs], tokens)
            xs = [x + more for x, more in zip(xs, attended, strict=True)]
            xs = [x + self.mlp(f"{name}.mlp", self.norm(f"{name}.norm_2", x)) for x in xs]
        head = embedding if self.config.tied_head else self.weights["head.weight"]
        logits = np.stack([head @ self.norm("norm", x) for x in xs])
        return 20 * np.tanh(logits / 20) if self.config.architecture == "speedrun" else logits


def test_whole_models(tiny_model, tokens):
    model = tiny_model.double()
    with torch.no_grad():
        logits = model(tokens).numpy()
    assert logits.std() > 0.5
    for row, expected in zip(tokens.tolist(), logits, strict=True):
        np.testing.assert_allclose(Reference(model).logits(row), expected, atol=TOLERANCE, rtol=0)


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_norms(draw):
    x, weight, bias = draw.normal(2, 3, size=(3, 16))
    ours = RMSNorm(16, eps=0.1).double()
    theirs = nn.LayerNorm(16, eps=0.1).double()
    with torch.no_grad():
        ours.weight.copy_(torch.from_numpy(weight))
        theirs.weight.copy_(torch.from_numpy(weight))
        theirs.bias.copy_(torch.from_numpy(bias))
        rms, layer = ours(torch.from_numpy(x)).numpy(), theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(rms, rms_norm(x, weight, 0.1), atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(layer, layer_norm(x, weight, bias, 0.1), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("theta", [10_000.0, 3.0])
def test_rope(draw, theta):
    x, positions = draw.normal(size=(2, 3, 40, 8)), torch.arange(100, 140)
    ours = rotate(torch.from_numpy(x), rope_angles(positions, 8, theta, torch.float64)).numpy()
    for t in range(40):
        for head in np.ndindex(2, 3):
            expected = turned(x[head][t], 100 + t, theta)
            np.testing.assert_allclose(ours[head][t], expected, atol=TOLERANCE, rtol=0)


def test_rope_makes_products_depend_on_distance_alone(draw):
    query, key = torch.from_numpy(draw.normal(size=(2, 1, 1, 1, 8)))

    def product(i, j):
        turned_query, turned_key = (
            rotate(x, rope_angles(torch.tensor([t]), 8, 100.0, torch.float64)) for x, t in ((query, i), (key, j))
        )
        return (turned_query * turned_key).sum().item()

    assert product(7, 3) == pytest.approx(product(104, 100), abs=TOLERANCE)
    assert abs(product(7, 3) - product(7, 4)) > 1e-3


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_attention(draw, n_kv_heads):
    query, key, value = draw.normal(size=(4, 3, 8)), *draw.normal(size=(2, n_kv_heads, 7, 8))
    ours = plain_attention(*(torch.from_numpy(x)[None] for x in (query, key, value)))[0].numpy()  # queries are the last
    for head, t in np.ndindex(4, 3):
        shared = head * n_kv_heads // 4
        expected = attention_of_one(query[head, t], key[shared, : 5 + t], value[shared, : 5 + t])
        np.testing.assert_allclose(ours[head, t], expected, atol=TOLERANCE, rtol=0)
