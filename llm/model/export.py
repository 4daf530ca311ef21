"""Exports models to other programs: as folders of Hugging Face's transformers, and as GGUF files (llama.cpp, Ollama).

The weights stay as they are, under other names. What is written is complete or absent, and nothing is overwritten.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_path, fsync_directory, read_json, remove, write_json
from ..tokenizer.tokenizer import DOCUMENT, SPLIT_PATTERN, Tokenizer
from .classifier import Classifier, is_classifier, load_classifier
from .files import CONFIG_FILE, load_model, save_tensors
from .gpt import GPT, GPTConfig
from .names import GGUF, HUGGING_FACE, to_theirs

WEIGHTS_FILE = "model.safetensors"

GGUF_SPLIT_PATTERNS = {
    SPLIT_PATTERN: "dbrx",  # cl100k's; its `llama-bpe` skips the merges as well
    SPLIT_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}"): "qwen2",
    None: "gpt-2",  # that of ByteLevel itself
}
"""llama.cpp's names for the patterns that split a text before its bytes are merged."""


def is_exportable(directory: Path) -> bool:
    """Returns whether other programs know the architecture of the model in a directory of ours."""
    return read_json(directory / CONFIG_FILE)["model"]["architecture"] in HUGGING_FACE


def directory_to_hf(directory: Path, out_dir: Path) -> None:
    """Writes the folder for transformers of the model in a directory of ours, a language model or a classifier.

    Raises as `to_hf`, and as loading a model does.
    """
    tokenizer = Tokenizer.load(directory)
    if is_classifier(directory):
        classifier, labels = load_classifier(directory)
        classifier_to_hf(classifier, labels, out_dir, tokenizer)
    else:
        to_hf(load_model(directory), out_dir, tokenizer)


def to_hf(model: GPT, out_dir: Path, tokenizer: Tokenizer | None = None) -> None:
    """Writes the folder of a `GPT2LMHeadModel` or `Qwen3ForCausalLM`, which transformers loads without our code.

    With a tokenizer its files are in it, and the configs name its special tokens. Raises ValueError when `out_dir`
    exists, the tokenizer has more tokens than the model, or the architecture is `speedrun`.
    """
    _require_exportable(model.config)
    _require_fit(model, tokenizer)
    with _new_directory(out_dir) as folder:
        if tokenizer is not None:
            save_tokenizer(tokenizer, folder, model.config.context_length)
        special = _special_tokens(tokenizer)
        write_json(folder / "config.json", hf_config(model.config) | special)
        # both end a text: a chat model's turn, a base model's document
        stops = None if tokenizer is None else [tokenizer.end_token, tokenizer.document_token]
        # without a length, pipelines ask for 256 new tokens, and GPT-2 fails beyond its last position
        generation = special | {"eos_token_id": stops, "max_length": model.config.context_length}
        write_json(folder / "generation_config.json", generation)
        weights = to_theirs(model.state_dict(), HUGGING_FACE[model.config.architecture], model.config.n_layers)
        save_tensors(weights, folder / WEIGHTS_FILE)


def classifier_to_hf(model: Classifier, labels: Sequence[str], out_dir: Path, tokenizer: Tokenizer) -> None:
    """Writes the folder of a `GPT2ForSequenceClassification` or `Qwen3ForSequenceClassification`, with its tokenizer.

    `pipeline("text-classification", folder)` of transformers gives the classifier's probabilities: its tokenizer puts
    `<|document|>` before a text and takes no special token from within it. It cuts a text that is too long, as the
    classifier does, when it is called with `truncation=True`. Raises as `to_hf`.
    """
    _require_exportable(model.config)
    _require_fit(model, tokenizer)
    with _new_directory(out_dir) as folder:
        save_tokenizer(tokenizer, folder, model.config.context_length, generates=False)
        kind = "Qwen3" if model.config.is_modern else "GPT2"
        about = {
            "architectures": [f"{kind}ForSequenceClassification"],
            "problem_type": "single_label_classification",
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
        }
        write_json(folder / "config.json", hf_config(model.config) | _special_tokens(tokenizer) | about)
        weights = to_theirs(model.state_dict(), HUGGING_FACE[model.config.architecture], model.config.n_layers)
        weights.pop("lm_head.weight", None)
        save_tensors(weights | {"score.weight": model.class_head.weight}, folder / WEIGHTS_FILE)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context_length: int, *, generates: bool = True) -> None:
    """Writes a tokenizer with which transformers gives a model of ours the tokens that we give it.

    A text gets `<|document|>` before it, as in training: without it the first tokens are read as no document begins. A
    chat has it in its template, and `apply_chat_template` adds none. Padding is on the left of what is to be continued,
    and right of what is to be classified, in which no special token is found either.
    """
    tokenizer.save(folder)
    content = read_json(folder / "tokenizer.json")
    first = {"id": DOCUMENT, "ids": [tokenizer.document_token], "tokens": [DOCUMENT]}
    parts = [{"SpecialToken": {"id": DOCUMENT, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = {"Sequence": {"id": "B", "type_id": 1}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": parts,
        "pair": [*parts, second],
        "special_tokens": {DOCUMENT: first},
    }
    write_json(folder / "tokenizer.json", content)
    config = read_json(folder / "tokenizer_config.json") | {"model_max_length": context_length}
    if generates:
        config |= {"padding_side": "left"}
    else:
        del config["chat_template"]
        config |= {"padding_side": "right", "split_special_tokens": True}
    write_json(folder / "tokenizer_config.json", config)


def hf_config(config: GPTConfig) -> dict[str, Any]:
    """Returns the content of transformers' `config.json`, without special tokens."""
    common = {
        "vocab_size": config.vocab_size,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tied_head,
        "dtype": "float32",
    }
    return common | (_qwen3_config(config) if config.is_modern else _gpt2_config(config))


def _gpt2_config(config: GPTConfig) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new",
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_embd": config.d_model,
        "n_inner": config.d_mlp,
        "layer_norm_epsilon": config.norm_eps,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
    }


def _qwen3_config(config: GPTConfig) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "hidden_size": config.d_model,
        "head_dim": config.head_dim,
        "intermediate_size": config.d_mlp,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,  # where transformers before 5 looks for it
        "rms_norm_eps": config.norm_eps,
        "attention_bias": False,
        "attention_dropout": config.dropout,
        "use_sliding_window": False,
    }


def to_gguf(model: GPT, path: Path, tokenizer: Tokenizer | None = None) -> None:
    """Writes a GGUF file of a `gpt2` or `qwen3` model in float32, with the tokenizer in it if there is one.

    Raises ValueError when `path` exists, the tokenizer has more tokens than the model or splits text as llama.cpp
    cannot, the architecture is `speedrun`, the model is a classifier, or the package gguf is absent.
    """
    if isinstance(model, Classifier):
        raise ValueError("a classifier cannot be written as GGUF, whose models write text: export it as hf")
    _require_exportable(model.config)
    gguf = _import_gguf()
    _require_fit(model, tokenizer)
    _require_absent(path)
    config = model.config
    with atomic_path(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "qwen3" if config.is_modern else "gpt2")
        with contextlib.closing(writer):
            _add_shape(writer, config)
            if tokenizer is not None:
                _add_tokenizer(writer, gguf.TokenType, tokenizer, config.vocab_size)
            for name, tensor in to_theirs(model.state_dict(), GGUF[config.architecture], config.n_layers).items():
                writer.add_tensor(name, tensor.float().cpu().contiguous().numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()


def _import_gguf() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise ValueError("a GGUF file is written by the package gguf, which is absent: pip install gguf") from error


def _add_shape(writer: Any, config: GPTConfig) -> None:
    writer.add_file_type(0)  # all float32
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_block_count(config.n_layers)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_mlp)
    writer.add_head_count(config.n_heads)
    if not config.is_modern:
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def _add_tokenizer(writer: Any, kinds: Any, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Adds tokens, merges and chat template; rows beyond the tokenizer's tokens get names that no text has."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        content = read_json(Path(folder) / "tokenizer.json")
        template = read_json(Path(folder) / "tokenizer_config.json")["chat_template"]
    tokens = [f"[UNUSED{i}]" for i in range(vocab_size)]
    types = [kinds.UNUSED] * vocab_size
    for token, i in content["model"]["vocab"].items():
        tokens[i], types[i] = token, kinds.NORMAL
    for special in content["added_tokens"]:
        tokens[special["id"]], types[special["id"]] = special["content"], kinds.CONTROL
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre(_split_pattern(content["pre_tokenizer"]))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.document_token)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_eos_token_id(tokenizer.document_token)  # a document ends where the next one starts
    writer.add_eot_token_id(tokenizer.end_token)
    writer.add_pad_token_id(tokenizer.pad_token)
    for tag in ("{%- generation -%}", "{%- endgeneration -%}"):  # marks of transformers for training masks
        template = template.replace(tag, "")
    writer.add_chat_template(template)


def _split_pattern(pre_tokenizer: dict[str, Any]) -> str:
    """Returns llama.cpp's name for the split pattern of a tokenizer; ValueError for one that it does not know."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    patterns = [step["pattern"].get("Regex") for step in steps if step["type"] == "Split"] or [None]
    is_known = len(patterns) == 1 and patterns[0] in GGUF_SPLIT_PATTERNS
    if not is_known or {step["type"] for step in steps} - {"Split", "ByteLevel"}:
        raise ValueError("the tokenizer splits text by a pattern that llama.cpp has no name for: export it as hf")
    return GGUF_SPLIT_PATTERNS[patterns[0]]


def _special_tokens(tokenizer: Tokenizer | None) -> dict[str, int | None]:
    """Returns ids for the configs; null, where there is no tokenizer, keeps GPT-2's 50256 from being the default."""
    return {
        "bos_token_id": None if tokenizer is None else tokenizer.document_token,
        "eos_token_id": None if tokenizer is None else tokenizer.end_token,
        "pad_token_id": None if tokenizer is None else tokenizer.pad_token,
    }


def _require_exportable(config: GPTConfig) -> None:
    if config.architecture not in HUGGING_FACE:
        raise ValueError(
            f"a model of architecture {config.architecture!r} cannot be exported: it has value embeddings, shortcuts, "
            "squared ReLU and soft-capped logits, which no other program knows; train one of architecture 'modern'"
        )


def _require_fit(model: GPT, tokenizer: Tokenizer | None) -> None:
    if tokenizer is not None and tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}: "
            "export a model with the tokenizer that it was trained with"
        )


def _require_absent(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} exists and is not overwritten: give another name, or remove it")


@contextlib.contextmanager
def _new_directory(path: Path) -> Iterator[Path]:
    """Yields a temporary directory that gets the name `path` when the block ends well, and else is removed."""
    _require_absent(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        fsync_directory(temporary)
        temporary.rename(path)
        fsync_directory(path.parent)
    finally:
        remove(temporary)
