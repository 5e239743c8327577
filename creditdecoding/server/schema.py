"""Requests: OpenAI's fields by OpenAI's names, and the fields of `GenerationConfig` by their own,
each declared once (config.py).
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import resolve
from creditdecoding.errors import MissingExtraError, OptionError, blame_param
from creditdecoding.options import from_mapping, type_names
from creditdecoding.server import fields
from creditdecoding.server.fields import Refusal, accepted_fields

try:
    from pydantic import (
        AfterValidator,
        BaseModel,
        ConfigDict,
        Field,
        ValidationError,
        create_model,
        model_validator,
    )
    from pydantic_core import PydanticCustomError
except ImportError as error:
    raise MissingExtraError("pydantic", "server") from error

TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}
MAX_CHOICES = 64
MAX_STOPS = 16
MAX_MESSAGES = 1024
MAX_PARTS = 1024
MAX_KNOBS = 64
MAX_WORDS = 1000  # characters of an option that is a text
REFUSAL = "refused_field"
"""Type of pydantic's error for a field that is not taken; its context has what `Refusal` has."""
InvalidBody = ValidationError
"""What a body that breaks these rules raises."""


def _whole(text: str) -> str:
    """A text without halves of surrogate pairs, which JSON can write and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = "Text should not hold half of a surrogate pair"
        raise PydanticCustomError("half_pair", what) from error
    return text


Plain = Annotated[str, AfterValidator(_whole)]
Texts = Annotated[list[Plain], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
Stops = Annotated[list[Plain], Field(max_length=MAX_STOPS, fail_fast=True)]
Ids = Annotated[list[int], Field(min_length=1, fail_fast=True)]
ManyIds = Annotated[list[Ids], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
Words = Annotated[str, Field(max_length=MAX_WORDS)]
Knobs = Annotated[dict[str, Any], Field(max_length=MAX_KNOBS)]


class Strict(BaseModel):
    """No unknown fields, no conversions between types; null is as good as leaving a field out."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    refused: ClassVar[fields.Refused] = {}
    harmless: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _taken(cls, given: Any) -> Any:
        """The declared fields alone. Fails at the first field that is not taken."""
        if not isinstance(given, dict):
            return given
        kept = accepted_fields(given, cls.model_fields, cls.refused, cls.harmless)
        if isinstance(kept, Refusal):
            raise PydanticCustomError(REFUSAL, "{message}", dataclasses.asdict(kept))
        return kept


class StreamOptions(Strict):
    """Of a streamed answer."""

    harmless = fields.STREAM_HARMLESS
    include_usage: bool | None = Field(
        default=None, description="A last event with the counts and no choices."
    )
    continuous_usage_stats: bool | None = Field(
        default=None, description="vLLM's: the counts so far in every event."
    )


class _Asked(Strict):
    """What both kinds of request share."""

    refused = fields.REFUSED
    harmless = fields.HARMLESS
    model: str | None = Field(
        default=None, description="The name under /v1/models; may be left out."
    )
    stop: Plain | Stops | None = Field(
        default=None, description="The answer is cut before the first of these."
    )
    n: int | None = Field(
        default=None,
        ge=1,
        le=MAX_CHOICES,
        description="Answers a prompt, each drawn with a seed of its own.",
    )
    decoder: Words | Knobs | None = Field(
        default=None, description='NAME, NAME:knob=value,... or {"name": NAME, knob: value}.'
    )
    ignore_eos: bool | None = Field(
        default=None, description="vLLM's name of logits_eos_inf: never write a stop token."
    )
    stream: bool | None = Field(
        default=None, description="Server-sent events: text as it becomes final."
    )
    stream_options: StreamOptions | None = None
    draft: bool | None = Field(
        default=None,
        description="With stream: the whole canvas after every forward pass as well.",
    )


OPTIONS = {field.name: field for field in dataclasses.fields(GenerationConfig)}
MAX_SEED = OPTIONS["seed"].metadata["le"]
LENGTHS = ("max_tokens", "max_completion_tokens", "gen_length")
_MEANT = {
    **dict.fromkeys(LENGTHS, "gen_length"),
    **{name: name for name in OPTIONS if name not in _Asked.model_fields},
}
_NO_LIMIT: dict[str, Any] = {
    "max_tokens": Literal[-1],
    "max_completion_tokens": Literal[-1],
    "top_k": Literal[-1, 0],
}
"""Values by which vLLM's clients say that there is no limit."""


def _own(name: str, field: dataclasses.Field[Any]) -> Any:
    """A pydantic field called `name` for an option of `GenerationConfig`; None stands for its
    default.
    """
    meta = field.metadata
    bounds = {key: meta[key] for key in ("ge", "gt", "le") if meta.get(key) is not None}
    plain = TYPES[type_names(field)[0]]
    kind: Any = Words if plain is str else Annotated[plain, Field(**bounds)]
    text = f"{meta['help']} Default: {field.default!r}."
    if name in _NO_LIMIT:
        kind = kind | _NO_LIMIT[name]
        text += " -1: no limit."
    return (kind | None, Field(None, description=text))


_Options: Any = create_model(
    "_Options",
    __base__=_Asked,
    **{name: _own(name, OPTIONS[option]) for name, option in _MEANT.items()},
)


class ErrorInfo(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """Every response that is not an answer."""

    error: ErrorInfo


class TextPart(Strict):
    """A part of a message."""

    refused = fields.PART_REFUSED
    harmless = fields.PART_HARMLESS
    type: Literal["text"]
    text: Plain


Parts = Annotated[list[TextPart], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]


class Message(Strict):
    """A turn of a conversation; an assistant's may have no content."""

    refused = fields.MESSAGE_REFUSED
    harmless = fields.MESSAGE_HARMLESS
    role: Literal["system", "developer", "user", "assistant"]
    content: Plain | Parts | None = None

    @model_validator(mode="after")
    def _spoken(self) -> Message:
        if self.content is None and self.role != "assistant":
            refusal = Refusal(
                "content", f"a turn of the {self.role} needs content. Give some text."
            )
            raise PydanticCustomError(REFUSAL, "{message}", dataclasses.asdict(refusal))
        return self

    def turn(self) -> dict[str, str]:
        """As the chat template takes it."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, list):
            return {"role": role, "content": "".join(part.text for part in self.content)}
        return {"role": role, "content": self.content or ""}


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class ChatRequest(_Options):  # type: ignore[misc]
    """Body of /v1/chat/completions."""

    messages: Messages
    logprobs: bool | None = Field(
        default=None, description="Log-probability of every token at the pass that wrote it."
    )


class CompletionRequest(_Options):  # type: ignore[misc]
    """Body of /v1/completions: plain text, continued without the chat template, or filled in before
    a suffix.
    """

    prompt: Plain | Texts | Ids | ManyIds
    suffix: Plain | None = Field(
        default=None,
        description="Text behind the answer: max_tokens tokens are written between prompt and suffix.",
    )
    logprobs: Annotated[int, Field(ge=0, le=0)] | None = Field(
        default=None, description="0: log-probability of every token at the pass that wrote it."
    )

    def prompts(self) -> list[str | list[int]]:
        """The prompts, texts or ids, one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if isinstance(self.prompt[0], int) else list(self.prompt)


FIELD_NAMES = {
    name
    for model in (ChatRequest, CompletionRequest, Message, TextPart, StreamOptions)
    for name in model.model_fields
}


def answer_length(asked: Any) -> tuple[str, int | None]:
    """The name by which a request gives the length of its answer, and that length. Raises
    `OptionError`.
    """
    given = {name: getattr(asked, name) for name in LENGTHS if getattr(asked, name) is not None}
    if len(set(given.values())) > 1:
        what = f"{' and '.join(given)} say different things"
        raise OptionError(what, given=given, hint="Give one of them.", param=next(iter(given)))
    return next(iter(given.items()), (LENGTHS[0], None))


def generation_config(asked: Any, defaults: Mapping[str, Any]) -> GenerationConfig:
    """The options of a request, over the `defaults` of whoever serves it; without a length where
    there is no limit. Raises `OptionError`.
    """
    given = {name: getattr(asked, name) for name in OPTIONS}
    _, length = answer_length(asked)
    given["gen_length"] = None if length == -1 else length
    given["stop"] = _stops(asked)
    given["decoder"] = None if asked.decoder is None else _decoder(asked.decoder)
    given["logits_eos_inf"] = _endless(asked)
    values = {**defaults, **{name: value for name, value in given.items() if value is not None}}
    if asked.top_k in (-1, 0):
        values["top_k"] = None
    if asked.seed is None and values.get("temperature"):
        values["seed"] = secrets.randbelow(2**31)
    return from_mapping(GenerationConfig, values)


def _stops(asked: Any) -> tuple[str, ...] | None:
    """Stop strings. Raises `OptionError` for an empty one."""
    if asked.stop is None:
        return None
    stops = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop)
    if "" in stops:
        hint = "Leave it out or give some text."
        raise OptionError("a stop string must not be empty", hint=hint, param="stop")
    return stops


def _decoder(given: Any) -> Any:
    with blame_param("decoder"):
        return resolve(given)


def _endless(asked: Any) -> bool | None:
    """Whether stop tokens are never written. Raises `OptionError` if two fields differ about it."""
    if asked.ignore_eos is None:
        return asked.logits_eos_inf  # type: ignore[no-any-return]
    if asked.logits_eos_inf not in (None, asked.ignore_eos):
        what = "ignore_eos and logits_eos_inf say different things"
        raise OptionError(what, hint="Give one of them.", param="ignore_eos")
    return asked.ignore_eos  # type: ignore[no-any-return]
