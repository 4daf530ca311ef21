"""What clients may ask for: the bodies of requests, checked field by field."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from ..data.user_files.messages import content_text, our_role, without_empty_system
from ..model.generate import Sampling

MAX_STOPS = 4
MAX_TEXTS = 256
"""Texts in one request to a classifier."""

IGNORED = frozenset(
    {"user", "name", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
    | {"tool_choice", "parallel_tool_calls"}  # of tools, which are refused
)
"""Parameters that change nothing here."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "truncate_prompt_tokens": (-1,),  # these three are vLLM's, of /v1/classify
    "add_special_tokens": (True,),
    "use_activation": (True,),
}
"""Parameters that are not built, with the values that ask for nothing (as null and empty lists do for all)."""


def encodable(text: str) -> str:
    """Returns the text; JSON can spell half of a surrogate pair, which no UTF-8 has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the text holds half of a surrogate pair") from error
    return text


def as_list(value: Any) -> Any:
    """Returns one string as a list of it."""
    return [value] if isinstance(value, str) else value


def only_one(prompt: Any) -> Any:
    """Returns the prompt of a list of one."""
    return prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt


Text = Annotated[str, AfterValidator(encodable)]
Stops = Annotated[list[Annotated[Text, Field(min_length=1)]], BeforeValidator(as_list), Field(max_length=MAX_STOPS)]


class Body(BaseModel):
    """Fields have exactly the types that the API names: `"5"` is no number."""

    model_config = ConfigDict(strict=True, extra="allow")

    def unsupported(self) -> list[str]:
        """Returns the names of the parameters that would have to change the answer, and cannot."""
        asked = {name: value for name, value in (self.model_extra or {}).items() if value not in (None, [], {})}
        return [name for name, value in asked.items() if name not in IGNORED and value not in NEUTRAL.get(name, ())]


def content_of_role(content: Any, info: ValidationInfo) -> Any:
    """Returns the text of a message, read as in the files that a model is trained on."""
    return content_text(content, info.data.get("role"))


class Message(Body):
    """One turn of a conversation."""

    role: Annotated[Literal["system", "user", "assistant"], BeforeValidator(our_role)]
    content: Annotated[Text, BeforeValidator(content_of_role)]


class StreamOptions(BaseModel):
    """What a stream brings besides the text."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool | None = None


class Generation(Body):
    """What both endpoints take. What is left out, or null, has the defaults of `python -m flows chat`."""

    model: str
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=1)  # not of OpenAI's API, but other servers have it under this name
    max_tokens: int | None = Field(None, ge=1)
    stop: Stops | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def sampling(self, default: Sampling) -> Sampling:
        """Returns how tokens are sampled; without a seed, differently each time."""
        return Sampling(
            temperature=default.temperature if self.temperature is None else self.temperature,
            top_k=self.top_k or default.top_k,
            top_p=default.top_p if self.top_p is None else self.top_p,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
        )

    @property
    def token_limit(self) -> int | None:
        """The most tokens that the answer may have; None: until the context is full."""
        return self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Generation):
    """The body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)  # the newer name of max_tokens

    @property
    def chat(self) -> list[dict[str, str]]:
        """The messages as `Tokenizer.render_chat` takes them, read as in the files that a model is trained on."""
        return without_empty_system([{"role": turn.role, "content": turn.content} for turn in self.messages])

    @property
    def token_limit(self) -> int | None:
        """`max_tokens` under its newer name, or under the older."""
        return self.max_completion_tokens or self.max_tokens

    def unsupported(self) -> list[str]:
        """Returns those of the body and of the messages."""
        turns = enumerate(self.messages)
        return super().unsupported() + [f"messages[{i}].{name}" for i, turn in turns for name in turn.unsupported()]


class CompletionRequest(Generation):
    """The body of `POST /v1/completions`: a text to continue."""

    prompt: Annotated[Text, BeforeValidator(only_one)] = ""
    max_tokens: int | None = Field(16, ge=1)


class ClassifyRequest(Body):
    """The body of `POST /v1/classify`: texts to label. Neither OpenAI's API nor its client has it; vLLM does."""

    model: str
    input: Annotated[
        list[Annotated[Text, Field(min_length=1)]],
        BeforeValidator(as_list),
        Field(min_length=1, max_length=MAX_TEXTS),
    ]
