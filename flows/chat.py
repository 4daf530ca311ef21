"""A conversation with a trained model, in the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from llm.model.generate import Sampling
from llm.serve.answer import Answer, ContextOverflow, LoadedModel

from .models import find_model, load_found

Messages = list[dict[str, str]]

UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters other than tab and newline."""


@dataclass(frozen=True)
class ChatSettings:
    """How the model answers."""

    sampling: Sampling
    system: str | None = None
    """A message before the conversation that says how to answer; it stays when old turns go."""
    max_tokens: int | None = None
    """Length limit of an answer in tokens; None: until the context is full."""


def talk(console: Console, model: str | None, question: str | None, settings: ChatSettings) -> None:
    """Answers one question, or asks for questions until the input ends.

    Raises ValueError for a model that does not exist and for a single question that is longer than the context.
    """
    found = find_model(model)
    chat = Conversation(console, load_found(found), settings)
    if not chat.loaded.is_chat:
        notes = Console(stderr=True, soft_wrap=True)
        notes.print(f"[dim]{escape(found.name)} is a base model: it continues a text instead of answering.[/]")
    if question is not None:
        chat.say(question)
        return
    console.print(f"[dim]{escape(found.name)}; Ctrl-C stops an answer, Ctrl-D ends the conversation[/]")
    for text in questions(console):
        try:
            chat.say(text)
        except ContextOverflow as error:
            console.print(f"[red]{escape(str(error))}[/]")
        except KeyboardInterrupt:
            console.print("[dim](stopped)[/]")


def printable(text: str) -> str:
    """Returns the text without control characters: a model's bytes can spell them, and a terminal would obey."""
    return UNPRINTABLE.sub("\ufffd", text)


def questions(console: Console) -> Iterator[str]:
    """Yields what the person types, line by line, without empty lines; ends at Ctrl-C or the end of the input."""
    while True:
        try:
            text = console.input("[bold]you[/]  ")
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if text.strip():
            yield text.encode(errors="replace").decode()  # what a terminal sends is not always UTF-8


class Conversation:
    """The turns so far, and the model that answers them."""

    def __init__(self, console: Console, loaded: LoadedModel, settings: ChatSettings) -> None:
        self.console, self.loaded, self.settings = console, loaded, settings
        self.messages: Messages = []
        self._has_forgotten = False

    def say(self, text: str) -> None:
        """Prints the model's answer to `text` while it is made; both become part of the conversation.

        An answer that is interrupted counts as far as it got. Raises ContextOverflow when the text alone is too long.
        """
        messages: Messages = [*self.messages, {"role": "user", "content": text}]
        if self.loaded.is_chat:
            messages = self.shortened(messages)
            prompt = self.loaded.chat_prompt(self.with_system(messages))
        else:
            prompt = self.loaded.text_prompt(text)
        settings = self.settings
        answer = Answer(self.loaded, prompt, sampling=settings.sampling, max_tokens=settings.max_tokens)
        pieces: list[str] = []
        try:
            for piece in answer.pieces():
                pieces.append(piece)
                self.console.out(printable(piece), end="", highlight=False)
        finally:
            self.console.print()
            self.messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]

    def with_system(self, messages: Messages) -> Messages:
        """Returns the messages after the system message, where there is one."""
        system = self.settings.system
        return messages if system is None else [{"role": "system", "content": system}, *messages]

    def shortened(self, messages: Messages) -> Messages:
        """Returns the newest messages that leave room for an answer: half of the context, or what it may take at most.

        Questions go with their answers; the last one always stays. That turns have gone is said once.
        """
        half = self.loaded.context_length // 2
        most = self.loaded.context_length - min(half, self.settings.max_tokens or half)
        kept = messages
        while len(kept) > 1 and len(self.loaded.chat_prompt(self.with_system(kept))) > most:
            kept = kept[2:]
        if len(kept) < len(messages) and not self._has_forgotten:
            self._has_forgotten = True
            self.console.print("[dim](longer than the model's context: the oldest turns are left out from here on)[/]")
        return kept
