"""Shapes of models by name: the fields that `GPTConfig.preset` fills in.

`demo`, `10m` and `30m` train on a CPU, which is why their vocabularies and contexts are small. The gpt2 sizes are those
of Radford et al. 2019, with the numbers of parameters that OpenAI's files have. `modern-1b` has heads of 128, the width
that GPU kernels and readers of GGUF files are made for.
"""

from __future__ import annotations

from typing import Any

ON_CPU: dict[str, Any] = {"architecture": "gpt2", "vocab_size": 8192, "context_length": 512}
GPT2: dict[str, Any] = {"architecture": "gpt2", "vocab_size": 50_257, "context_length": 1024}
MODERN: dict[str, Any] = {"architecture": "modern", "vocab_size": 32_768, "context_length": 2048}

DEMO: dict[str, Any] = {"vocab_size": 4096, "context_length": 256, "init_std": 0.06}
"""A narrow model learns faster from larger weights than GPT-2's 0.02, and those between from weights between."""

PRESETS: dict[str, dict[str, Any]] = {
    "demo": ON_CPU | DEMO | {"n_layers": 4, "n_heads": 2, "d_model": 128},
    "10m": ON_CPU | {"n_layers": 6, "n_heads": 5, "d_model": 320, "init_std": 0.034},
    "30m": ON_CPU | {"n_layers": 8, "n_heads": 8, "d_model": 512, "init_std": 0.026},
    "gpt2-124m": GPT2 | {"n_layers": 12, "n_heads": 12, "d_model": 768},
    "gpt2-350m": GPT2 | {"n_layers": 24, "n_heads": 16, "d_model": 1024},
    "gpt2-774m": GPT2 | {"n_layers": 36, "n_heads": 20, "d_model": 1280},
    "gpt2-1.5b": GPT2 | {"n_layers": 48, "n_heads": 25, "d_model": 1600},
    "modern-1b": MODERN | {"n_layers": 20, "n_heads": 16, "n_kv_heads": 8, "d_model": 2048, "d_mlp": 5632},
}
