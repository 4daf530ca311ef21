"""Low-rank adapters (LoRA, Hu et al. 2021): a matrix W is frozen, and the product of two thin ones is trained.

Trained for W (O, I) is (alpha / rank) B A, with A (rank, I) and B (O, rank). B starts at 0, so the model starts
as it was. Afterwards the product is added to W, and nothing of the adapters is left in the model.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..files import write_json
from .files import save_tensors
from .gpt import GPT
from .names import CONV1D, HUGGING_FACE

ADAPTER_FILE, ADAPTER_CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"


class LoraLinear(nn.Linear):
    """A frozen linear layer with a trainable adapter: (..., I) to (..., O)."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        """Takes over the weights of `linear`; the adapter's come from torch's global random generator."""
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = alpha / rank
        like = linear.weight.detach()
        self.lora_a = nn.Parameter(like.new_empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(like.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # peft's: uniform up to 1 / sqrt(I)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the layer's output plus the adapter's."""
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Returns a plain layer that does the same, up to rounding."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        plain.weight, plain.bias = nn.Parameter(self.weight + self.scale * (self.lora_b @ self.lora_a)), self.bias
        return plain


def add_lora(
    model: GPT, *, rank: int, alpha: float, targets: Collection[str] | None = None, embeddings: bool = False
) -> None:
    """Freezes a model and gives the linear layers of its blocks adapters: those named in `targets`, None: all.

    A target is the end of a layer's name: `query`, `attention.projection`, `mlp.expand`. With `embeddings` those of the
    tokens, and the head, are trained in full. Raises ValueError for a target that no layer has, or when the
    architecture has no names in peft.
    """
    if model.config.architecture not in HUGGING_FACE:
        raise ValueError(
            f"lora is for the architectures {', '.join(HUGGING_FACE)}; this is {model.config.architecture}"
        )
    layers = {name: layer for name, layer in model.blocks.named_modules() if isinstance(layer, nn.Linear)}
    for target in targets or ():
        if not any(_is_meant(name, target) for name in layers):
            known = sorted({name.split(".", 1)[1] for name in layers})
            raise ValueError(f"lora.targets has {target!r}; allowed here: {', '.join(known)}, or their last words")
    model.requires_grad_(False)
    for name, layer in layers.items():
        if targets is None or any(_is_meant(name, target) for target in targets):
            model.blocks.set_submodule(name, LoraLinear(layer, rank, alpha))
    model.token_embedding.requires_grad_(embeddings)
    if not model.config.tied_head:
        model.head.requires_grad_(embeddings)


def _is_meant(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


def adapted_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """Returns the layers with adapters, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLinear)}


def merge(model: GPT) -> None:
    """Adds all adapters to their matrices, which leaves a plain model."""
    for name, layer in adapted_layers(model).items():
        model.set_submodule(name, layer.merged())


def save_adapter(model: GPT, directory: Path, base: str) -> None:
    """Writes the adapters of a model as peft keeps them; they fit the model that `export.to_hf` makes of the base.

    peft's Auto classes load the model of the folder `base`, which the adapter names.

    GPT-2 in transformers has queries, keys and values in one layer: its A holds ours one below the other, its B has
    ours along the diagonal, and so its rank is the sum of ours.
    """
    layers, theirs = adapted_layers(model), HUGGING_FACE[model.config.architecture]
    tensors, ranks = dict[str, Tensor](), dict[str, int]()
    for their_name, our_names in theirs.items():
        for block in range(model.config.n_layers):
            parts = [layers.get(name.format(block)) for name in our_names]
            if any(parts):
                name = f"base_model.model.{their_name.format(block)}"
                a, b = _joined(parts, [model.get_submodule(name.format(block)) for name in our_names])
                tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
                ranks[their_name.split("{}.")[1]] = len(a)
    config = {"base_model_name_or_path": base, **_peft_config(next(iter(layers.values())), ranks)}
    if model.token_embedding.weight.requires_grad:
        whole = {name: ours for name, (ours, *_) in theirs.items() if ours in ("token_embedding", "head")}
        weights = {"token_embedding": model.token_embedding.weight, "head": model.head_weight}
        tensors |= {f"base_model.model.{name}.weight": weights[ours].clone() for name, ours in whole.items()}
        config["modules_to_save"] = sorted(name.rsplit(".", 1)[-1] for name in whole)
    save_tensors(tensors, directory / ADAPTER_FILE)
    write_json(directory / ADAPTER_CONFIG_FILE, config)


def _joined(parts: list[LoraLinear | None], layers: list[Any]) -> tuple[Tensor, Tensor]:
    """Returns A and B of several layers that are one in transformers; a layer without an adapter gets rows of zeros."""
    nothing = [layer.weight.new_zeros(layer.out_features, 0) for layer in layers]
    of_b = [empty if part is None else part.lora_b for part, empty in zip(parts, nothing, strict=True)]
    a = torch.cat([part.lora_a for part in parts if part is not None])
    return a, torch.block_diag(*of_b)  # type: ignore[no-untyped-call]


def _peft_config(layer: LoraLinear, ranks: dict[str, int]) -> dict[str, Any]:
    """Returns the content of `adapter_config.json`, for adapters by their module and its rank."""
    rank = len(layer.lora_a)
    others = {name: n for name, n in ranks.items() if n != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": rank,
        "lora_alpha": layer.scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(ranks),
        "fan_in_fan_out": any(name.endswith(CONV1D) for name in ranks),
        "rank_pattern": others,
        "alpha_pattern": {name: layer.scale * n for name, n in others.items()},
    }
