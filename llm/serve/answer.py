"""Text out of a trained model, piece by piece: what the terminal chat and the server share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ..files import read_json
from ..model.files import CONFIG_FILE, WEIGHTS_FILE, load_model
from ..model.generate import Sampling, generate
from ..model.gpt import GPT
from ..model.size import n_params
from ..tokenizer import SPECIAL_TOKENS, Tokenizer

CHAT_SAMPLING = Sampling(temperature=0.7)
"""How answers are drawn where nobody asks for something else."""


MAX_PARAMS_OF_ONE_THREAD = 10_000_000
"""A step of a smaller model is so short that threads cost more than they bring, above all on a busy machine."""


class ContextOverflow(ValueError):
    """A prompt that leaves no room for a single token of an answer."""

    def __init__(self, n_tokens: int, context_length: int) -> None:
        super().__init__(
            f"the model's context is {context_length} tokens, but the text given to it has {n_tokens}: shorten it"
        )
        self.n_tokens, self.context_length = n_tokens, context_length


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer."""

    name: str
    model: GPT
    tokenizer: Tokenizer
    is_chat: bool
    """Whether it was fine-tuned to answer; a base model can only continue a text."""
    created: int
    """When its weights were written, in seconds since 1970."""

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer can have together."""
        return self.model.config.context_length

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Tokens that ask for the answer to a conversation. What a message spells never becomes a special token."""
        return self.tokenizer.render_chat(messages, add_generation_prompt=True)[0]

    def text_prompt(self, text: str) -> list[int]:
        """Tokens of a document that begins with `text`."""
        return [self.tokenizer.document_token, *self.tokenizer.encode(text)]


def load(directory: Path, name: str) -> LoadedModel:
    """The model of a directory, such as a pretrain or finetune artifact.

    Raises ValueError when it is no model directory, OSError when a file is damaged.
    """
    if not (directory / WEIGHTS_FILE).is_file():
        raise ValueError(f"{directory} is not a model directory: it has no {WEIGHTS_FILE}")
    training = read_json(directory / CONFIG_FILE).get("training", {})
    return LoadedModel(
        name,
        load_model(directory),
        Tokenizer.load(directory),
        is_chat=training.get("kind", "pretrain") != "pretrain",
        created=int((directory / WEIGHTS_FILE).stat().st_mtime),
    )


def use_few_threads(loaded: LoadedModel) -> None:
    """Sets PyTorch's threads, of this process, to one if the model is small."""
    if n_params(loaded.model.config) <= MAX_PARAMS_OF_ONE_THREAD:
        torch.set_num_threads(1)


class Answer:
    """The answer to one prompt: iterate over `pieces()`, then see how long it is and how it ended."""

    def __init__(
        self,
        loaded: LoadedModel,
        prompt: list[int],
        *,
        sampling: Sampling = CHAT_SAMPLING,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> None:
        """Nothing is generated yet. `max_tokens` None: until the context is full. The text ends before any of `stop`.

        Raises ContextOverflow when the prompt leaves no room.
        """
        room = loaded.context_length - len(prompt)
        if room < 1:
            raise ContextOverflow(len(prompt), loaded.context_length)
        self.n_prompt_tokens, self.n_tokens = len(prompt), 0
        self.finish_reason: Literal["stop", "length"] | None = None
        """`stop`: the model ended its turn or came to a stop text; `length`: no room; None: not at its end yet."""
        self._loaded, self._prompt, self._sampling = loaded, prompt, sampling
        self._max_tokens = min(room, max_tokens or room)
        self._stop = StopText(stop)

    def pieces(self) -> Iterator[str]:
        """The text, one piece for each token; a piece is empty while half a character or a stop text may go on."""
        for text in whole_characters(self._tokens(), self._loaded.tokenizer):
            yield self._stop.passed(text)
            if self._stop.is_found:
                self.finish_reason = "stop"
                return
        self.finish_reason = self.finish_reason or "length"
        yield self._stop.rest()

    def text(self) -> str:
        """The whole answer."""
        return "".join(self.pieces())

    def _tokens(self) -> Iterator[int]:
        """The tokens before the special token that ends the turn."""
        special = range(len(SPECIAL_TOKENS))
        for token in generate(
            self._loaded.model, self._prompt, max_new_tokens=self._max_tokens, sampling=self._sampling, stop=special
        ):
            self.n_tokens += 1
            if token in special:
                self.finish_reason = "stop"
                return
            yield token


def whole_characters(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """The text of each token; empty for one that ends inside of a character, which comes with the token that ends it.

    What is no UTF-8 becomes U+FFFD, as in `Tokenizer.decode` of all tokens together.
    """
    waiting: list[int] = []
    for token in tokens:
        waiting.append(token)
        text = tokenizer.decode(waiting)
        if text.endswith("\ufffd"):
            yield ""
        else:
            waiting = []
            yield text
    if waiting:
        yield tokenizer.decode(waiting)


class StopText:
    """Lets text through up to the string that is complete first; what may be the beginning of one is held back.

    How the text is cut into pieces makes no difference.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.is_found = False
        self._strings, self._held = tuple(strings), ""

    def passed(self, text: str) -> str:
        """What of the text so far can be shown and has not been yet."""
        text = self._held + text
        found = [(at + len(string), at) for string in self._strings if (at := text.find(string)) >= 0]
        if found:
            self.is_found, self._held = True, ""
            _, start = min(found)
            return text[:start]
        n_held = max((n_shared(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def rest(self) -> str:
        """What was held back, when no more text comes."""
        rest, self._held = self._held, ""
        return rest


def n_shared(text: str, string: str) -> int:
    """The most characters at the end of `text` with which `string` begins."""
    longest = min(len(text), len(string))
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
