"""Tiny random models in Hugging Face's layout, made by transformers, with tokenizers as GPT-2 and Qwen3 have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "The baker bakes the bread — naïve café, 麺麭, 🍞🥖, 1234 loaves.",
    "What does the baker's dough do? It rises.",
] * 9
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = {"gpt2": ["<|endoftext|>"], "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 72, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "qwen3": {
        "hidden_size": 32,
        "intermediate_size": 50,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "max_position_embeddings": 72,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    },
}


def published_tokenizer(kind: str = "gpt2", n_tokens: int = 300) -> tokenizers.Tokenizer:
    """A trained tokenizer whose special tokens come after its other ones, as in the published ones."""
    made = tokenizers.Tokenizer(models.BPE())
    if kind == "gpt2":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.post_processor = processors.ByteLevel(trim_offsets=False)
    else:
        made.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(tokenizers.Regex(QWEN_PATTERN), behavior="isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.add_special_tokens(SPECIAL[kind])
    return made


def publish(folder: Path, kind: str = "gpt2", *, n_tokens: int = 300, n_padded: int = 0, **settings: Any) -> Any:
    """Saves a random model with its tokenizer in `folder` and returns it; `n_padded` rows stand for no token."""
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

    tokenizer = published_tokenizer(kind, n_tokens)
    end = tokenizer.token_to_id(SPECIAL[kind][-1])
    about = {"vocab_size": tokenizer.get_vocab_size() + n_padded, "initializer_range": 0.2, "eos_token_id": end}
    about |= {"bos_token_id": tokenizer.token_to_id(SPECIAL[kind][0])} | SHAPES[kind] | settings
    torch.manual_seed(0)
    if kind == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(**about)).eval()
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**about)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases, which begin as 1 and 0
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model
