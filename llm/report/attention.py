"""Where a trained model looks: the attention weights of one head over one real text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..tokenizer.tokenizer import Tokenizer

_MAX_LABEL_CHARS = 14


@dataclass(frozen=True)
class AttentionMap:
    """`weights[i][j]` (0 to 1, two decimals): how much token i looks at token j; layer and head count from 1."""

    labels: list[str]
    weights: list[list[float]]
    layer: int
    head: int


def chat_attention(model_dir: Path, messages: Sequence[dict[str, str]], max_tokens: int) -> AttentionMap:
    """Returns the map of a chat model that reads the first `max_tokens` of a conversation in its chat form."""
    from ..tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(model_dir)
    tokens, _ = tokenizer.render_chat(messages)
    return _attention(model_dir, tokenizer, tokens[:max_tokens])


def text_attention(model_dir: Path, text: str, max_tokens: int) -> AttentionMap:
    """Returns the map of a base model that reads the first `max_tokens` of a document that begins with `text`."""
    from ..tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(model_dir)
    return _attention(model_dir, tokenizer, [tokenizer.document_token, *tokenizer.encode(text)][:max_tokens])


def _attention(model_dir: Path, tokenizer: Tokenizer, tokens: list[int]) -> AttentionMap:
    import torch

    from ..model.files import load_model

    model = load_model(model_dir).double()  # whose rounding no thread count can show in two decimals
    tokens = tokens[: model.config.context_length]
    with torch.inference_mode():
        weights = torch.cat(list(model.attention_weights(torch.tensor([tokens]))))  # (L, H, T, T)
    layer, head = divmod(int(reach(weights).argmax()), weights.shape[1])
    labels = [_label(tokenizer.decode([token])) for token in tokens]
    rows = [[round(float(weight), 2) for weight in row] for row in weights[layer, head]]
    return AttentionMap(labels, rows, layer + 1, head + 1)


def reach(weights: torch.Tensor) -> torch.Tensor:
    """Returns how much of its attention each head spends on more than the obvious: (L, H, T, T) to (L, H), 0 to 1.

    The obvious: the first token (where heads park attention they do not use), the token itself, the one before.
    """
    import torch

    n_tokens = weights.shape[-1]
    interesting = torch.ones(n_tokens, n_tokens).tril(-2)
    interesting[:, 0] = 0
    return (weights * interesting).sum(dim=(-2, -1)).div(max(n_tokens, 1)).round(decimals=3)


def _label(text: str) -> str:
    """Returns a token as a label: spaces and line ends made visible."""
    visible = text.replace(" ", "·").replace("\n", "⏎")
    return visible if len(visible) <= _MAX_LABEL_CHARS else visible[: _MAX_LABEL_CHARS - 1] + "…"
