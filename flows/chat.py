"""A conversation with a trained model, in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from llm.model.files import load_model
from llm.model.generate import generate
from llm.model.gpt import GPT
from llm.tokenizer import Tokenizer
from tasks.store import Store
from tasks.workspace import workspace

MAX_ANSWER_TOKENS = 200


def talk(console: Console, directory: Path | None, *, question: str | None, temperature: float, seed: int) -> None:
    """Answers one question, or asks for questions until the input ends."""
    directory = directory or newest_model()
    if not (directory / "model.safetensors").is_file():
        raise ValueError(
            f"{directory} is not a model directory: it has no model.safetensors; `python -m flows list` shows models"
        )
    model, tokenizer = load_model(directory), Tokenizer.load(directory)
    messages: list[dict[str, str]] = []
    while True:
        try:
            text = question or console.input("[bold]you[/]  ")
        except (EOFError, KeyboardInterrupt):
            return
        messages = recent([*messages, {"role": "user", "content": text}], model, tokenizer)
        messages.append(
            {"role": "assistant", "content": answer(console, model, tokenizer, messages, temperature, seed)}
        )
        if question:
            return


def answer(
    console: Console, model: GPT, tokenizer: Tokenizer, messages: list[dict[str, str]], temperature: float, seed: int
) -> str:
    """Prints an answer while it is made, and returns it."""
    prompt, _ = tokenizer.render_chat(messages, add_generation_prompt=True)
    tokens: list[int] = []
    n_shown = 0
    for token in generate(
        model, prompt, max_new_tokens=MAX_ANSWER_TOKENS, temperature=temperature, stop=[tokenizer.end_token], seed=seed
    ):
        tokens.append(token)
        text = tokenizer.decode(tokens, skip_special=True)
        if not text.endswith("\ufffd"):  # half of a character; the next token brings the rest
            console.print(escape(text[n_shown:]), end="")
            n_shown = len(text)
    console.print()
    return tokenizer.decode(tokens, skip_special=True)


def recent(messages: list[dict[str, str]], model: GPT, tokenizer: Tokenizer) -> list[dict[str, str]]:
    """The newest messages that leave half of the context for the answer; always the last one."""
    while len(messages) > 1:
        tokens, _ = tokenizer.render_chat(messages, add_generation_prompt=True)
        if len(tokens) <= model.config.context_length // 2:
            break
        messages = messages[1:]
    return messages


def newest_model() -> Path:
    """The chat model that was built last; raises ValueError when there is none."""
    artifacts = Store(workspace() / "store").artifacts("finetune")
    if not artifacts:
        raise ValueError("there is no chat model in the store yet; `make run` builds one")
    return artifacts[0].path
