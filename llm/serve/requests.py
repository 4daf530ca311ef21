"""What clients may ask for: the bodies of requests, checked field by field."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from ..data.user_files.messages import content_text, our_role, without_empty_system
from ..model.generate import Sampling

MAX_STOPS = 4
MAX_TEXTS = 256
"""Texts in one request to a classifier."""

IGNORED = frozenset(
    {"user", "name", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "request_id"}
    | {"tool_choice", "parallel_tool_calls", "function_call"}  # of tools, which are refused
    | {"length_penalty", "early_stopping"}  # of a beam search, which is refused
    | {"repeat_last_n"}  # of a penalty for repetition, which is refused
)
"""Parameters that change nothing here, whatever their value."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("n", "best_of", "num_beams", "beam_size"), (1,)),
    **dict.fromkeys(("repetition_penalty", "repeat_penalty", "typical_p", "tfs_z"), (1,)),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "min_p", "top_a", "min_tokens", "n_probs"), (0,)),
    **dict.fromkeys(("top_logprobs", "no_repeat_ngram_size", "mirostat", "dry_multiplier", "xtc_probability"), (0,)),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "priority"), (0,)),
    **dict.fromkeys(("skip_special_tokens", "spaces_between_special_tokens", "detokenize"), (True,)),
    **dict.fromkeys(("add_generation_prompt", "include_reasoning", "use_activation", "add_special_tokens"), (True,)),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "truncate_prompt_tokens": (-1,),
}
"""Parameters of OpenAI, vLLM and llama.cpp that are not built and have a value besides null that asks for nothing.

Any other parameter asks for nothing when it is null, false or empty."""


def asks_for_nothing(name: str, value: Any, neutral: Mapping[str, tuple[Any, ...]] = NEUTRAL) -> bool:
    """Returns whether a parameter that is not built would leave the answer as it is with this value."""
    if name in IGNORED or value is None:
        return True
    values = neutral.get(name, (False, "", [], {}))
    return any(value == item and isinstance(value, bool) == isinstance(item, bool) for item in values)  # 0 == False


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


def stops(value: Any) -> Any:
    """Returns texts at which an answer ends as a list, without empty ones: nothing ends there."""
    listed = as_list(value)
    return [text for text in listed if text != ""] if isinstance(listed, list) else listed


def only_one(prompt: Any) -> Any:
    """Returns the prompt of a list of one."""
    return prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt


Text = Annotated[str, AfterValidator(encodable)]
Stops = Annotated[list[Text], BeforeValidator(stops), Field(max_length=MAX_STOPS)]


class Body(BaseModel):
    """Fields have exactly the types that the API names: `"5"` is no number."""

    model_config = ConfigDict(strict=True, extra="allow")

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = NEUTRAL

    def unsupported(self) -> list[str]:
        """Returns the names of the parameters that would have to change the answer, and cannot."""
        extra = (self.model_extra or {}).items()
        return [name for name, value in extra if not asks_for_nothing(name, value, self.neutral)]


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
    top_k: int | None = Field(None, ge=-1)  # not of OpenAI's API; elsewhere 0 and -1 draw among all, so here too
    max_tokens: int | None = Field(None, ge=1)
    stop: Stops | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def sampling(self, default: Sampling) -> Sampling:
        """Returns how tokens are sampled; without a seed, differently each time."""
        return Sampling(
            temperature=default.temperature if self.temperature is None else self.temperature,
            top_k=default.top_k if self.top_k is None else self.top_k if self.top_k > 0 else None,
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

    neutral = {**NEUTRAL, "add_special_tokens": (False,)}  # the chat format has them all

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
