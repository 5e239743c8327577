"""Bodies of requests: OpenAI's fields by OpenAI's names, and the options of `GenerationConfig` by
their own, each declared once (in `creditdecoding.config`).
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from creditdecoding.choice_scores import MAX_SCORED
from creditdecoding.config import GenerationConfig
from creditdecoding.errors import MissingExtraError, OptionError, blame_param
from creditdecoding.options import from_mapping, type_names
from creditdecoding.server import fields
from creditdecoding.server.decoder_files import client_decoder
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
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16
MAX_MESSAGES = 1024
MAX_PARTS = 1024
MAX_KNOBS = 64
MAX_OPTION_TEXT = 1000  # characters
NO_LIMIT = -1
"""What vLLM's clients send for an answer without a maximum length."""
REFUSAL = "refused_field"
"""Type of pydantic's error for a field that is not accepted; its context has `Refusal`'s fields."""
InvalidBody = ValidationError
"""What a body that breaks these rules raises."""


def _check_unicode(text: str) -> str:
    """Refuse halves of surrogate pairs, which JSON can write and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = "Text should not hold half of a surrogate pair"
        raise PydanticCustomError("half_pair", message) from error
    return text


Text = Annotated[str, AfterValidator(_check_unicode)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
Stops = Annotated[list[Text], Field(max_length=MAX_STOPS, fail_fast=True)]
Ids = Annotated[list[int], Field(min_length=1, fail_fast=True)]
ManyIds = Annotated[list[Ids], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
Scored = Annotated[list[Text | Ids], Field(min_length=1, max_length=MAX_SCORED, fail_fast=True)]
OptionText = Annotated[str, Field(max_length=MAX_OPTION_TEXT)]
Knobs = Annotated[dict[str, Any], Field(max_length=MAX_KNOBS)]


class Strict(BaseModel):
    """No unknown fields, no conversions between types; null is as good as leaving a field out."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    refused: ClassVar[fields.Refused] = {}
    harmless: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _accept_fields(cls, body: Any) -> Any:
        """The declared fields alone; fails at the first one that is not accepted."""
        if not isinstance(body, dict):
            return body
        accepted = accepted_fields(body, cls.model_fields, cls.refused, cls.harmless)
        if isinstance(accepted, Refusal):
            raise _refusal(accepted)
        return accepted


def _refusal(refusal: Refusal) -> PydanticCustomError:
    return PydanticCustomError(REFUSAL, "{message}", dataclasses.asdict(refusal))


class StreamOptions(Strict):
    """Options of a streamed answer."""

    harmless = fields.STREAM_HARMLESS
    include_usage: bool | None = Field(
        default=None, description="A last event with the counts and no choices."
    )
    continuous_usage_stats: bool | None = Field(
        default=None, description="vLLM's: the counts so far in every event."
    )


class _CommonFields(Strict):
    """The fields that both endpoints share, apart from `GenerationConfig`'s."""

    refused = fields.REFUSED
    harmless = fields.HARMLESS
    model: str | None = Field(
        default=None, description="The name under /v1/models; may be left out."
    )
    stop: Text | Stops | None = Field(
        default=None, description="The answer is cut before the first of these."
    )
    n: int | None = Field(
        default=None,
        ge=1,
        le=MAX_CHOICES,
        description="Answers per prompt, each with a different seed.",
    )
    decoder: OptionText | Knobs | None = Field(
        default=None, description='NAME, NAME:knob=value,... or {"name": NAME, knob: value}.'
    )
    response_format: Knobs | None = Field(
        default=None,
        description='{"type": "json_schema", "json_schema": {"name": ..., "schema": ...}}: the '
        "answer is valid under the schema.",
    )
    guided_choice: list[Text] | None = Field(
        default=None, description="vLLM's: the answer is one of these texts."
    )
    guided_regex: Text | None = Field(
        default=None, description="vLLM's: the whole answer matches the pattern."
    )
    guided_json: dict[str, Any] | Text | None = Field(
        default=None, description="vLLM's: the answer is valid under the JSON schema."
    )
    structured_outputs: Knobs | None = Field(
        default=None, description='vLLM\'s: {"choice": ...}, {"regex": ...} or {"json": ...}.'
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
LENGTHS = ("max_tokens", "max_completion_tokens", "gen_length")
_OPTION_OF_FIELD = {
    **dict.fromkeys(LENGTHS, "gen_length"),
    **{name: name for name in OPTIONS if name not in _CommonFields.model_fields},
}
_UNLIMITED: dict[str, Any] = {
    "max_tokens": Literal[-1],
    "max_completion_tokens": Literal[-1],
    "top_k": Literal[-1, 0],
}
"""Values by which vLLM's clients say that there is no limit."""


def _option_field(name: str, option: dataclasses.Field[Any]) -> Any:
    """Type and default of a pydantic field for an option of `GenerationConfig`; None: not set."""
    meta = option.metadata
    bounds = {key: meta[key] for key in ("ge", "gt", "le") if meta.get(key) is not None}
    plain = TYPES[type_names(option)[0]]
    kind: Any = OptionText if plain is str else Annotated[plain, Field(**bounds)]
    description = f"{meta['help']} Default: {option.default!r}."
    if name in _UNLIMITED:
        kind = kind | _UNLIMITED[name]
        description += " -1: no limit."
    return (kind | None, Field(None, description=description))


_GenerationFields: Any = create_model(
    "_GenerationFields",
    __base__=_CommonFields,
    **{name: _option_field(name, OPTIONS[option]) for name, option in _OPTION_OF_FIELD.items()},
)


class ErrorInfo(BaseModel):
    """What is wrong, in OpenAI's shape."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """The body of every response that is not an answer."""

    error: ErrorInfo


class TextPart(Strict):
    """A part of a message."""

    refused = fields.PART_REFUSED
    harmless = fields.PART_HARMLESS
    type: Literal["text"]
    text: Text


Parts = Annotated[list[TextPart], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]


class Message(Strict):
    """A turn of a conversation; an assistant's may have no content."""

    refused = fields.MESSAGE_REFUSED
    harmless = fields.MESSAGE_HARMLESS
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Parts | None = None

    @model_validator(mode="after")
    def _require_content(self) -> Message:
        if self.content is None and self.role != "assistant":
            message = f"a turn of the {self.role} needs content. Give some text."
            raise _refusal(Refusal("content", message))
        return self

    def turn(self) -> dict[str, str]:
        """The message as the chat template takes it."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, list):
            return {"role": role, "content": "".join(part.text for part in self.content)}
        return {"role": role, "content": self.content or ""}


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class ChatRequest(_GenerationFields):  # type: ignore[misc]
    """Body of /v1/chat/completions."""

    prompt_field: ClassVar[str] = "messages"
    messages: Messages
    logprobs: bool | None = Field(
        default=None, description="Log-probability of every token in the pass that committed it."
    )
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        default=None, description="With logprobs: the likeliest tokens at each position as well."
    )

    @property
    def top_count(self) -> int:
        """How many of the likeliest tokens are reported at each position."""
        return self.top_logprobs or 0

    @property
    def prompt_count(self) -> int:
        """A conversation is one prompt."""
        return 1


class CompletionRequest(_GenerationFields):  # type: ignore[misc]
    """Body of /v1/completions: text continued without the chat template, or filled in before a
    suffix.
    """

    refused = fields.COMPLETION_REFUSED
    prompt_field: ClassVar[str] = "prompt"
    prompt: Text | Texts | Ids | ManyIds
    suffix: Text | None = Field(
        default=None,
        description="Text after the answer; max_tokens tokens are written in between.",
    )
    template: bool | None = Field(
        default=None,
        description="[MASK] in the prompt is a missing token, [MASK*n] are n of them.",
    )
    score_choices: Scored | None = Field(
        default=None,
        description="Texts or lists of ids: the log-probabilities of each after the prompt, or at "
        "the gaps of a template, from one pass. Nothing is written.",
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        default=None,
        description="Log-probability of every token in the pass that committed it, and of so many "
        "of the likeliest tokens there.",
    )

    @property
    def top_count(self) -> int:
        """How many of the likeliest tokens are reported at each position."""
        return self.logprobs or 0

    @property
    def prompt_count(self) -> int:
        """How many prompts there are."""
        return len(self.prompts())

    def prompts(self) -> list[str | list[int]]:
        """The prompts, texts or ids."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


FIELD_NAMES = {
    name
    for model in (ChatRequest, CompletionRequest, Message, TextPart, StreamOptions)
    for name in model.model_fields
}


def answer_length(body: Any) -> tuple[str, int | None]:
    """The field by which a body gives the length of its answer, and the length. Raises
    `OptionError`.
    """
    lengths = {name: getattr(body, name) for name in LENGTHS if getattr(body, name) is not None}
    if len(set(lengths.values())) > 1:
        raise _contradiction(lengths)
    return next(iter(lengths.items()), (LENGTHS[0], None))


def generation_config(
    body: Any, defaults: Mapping[str, Any], decoder_files: str | None = None
) -> GenerationConfig:
    """The options of a body over the server's `defaults`. Its decoder may be a file of the folder
    `decoder_files`. Raises `OptionError`.
    """
    _, length = answer_length(body)
    options = {name: getattr(body, name) for name in OPTIONS}
    options["gen_length"] = None if length == NO_LIMIT else length
    options["stop"] = _stops(body)
    if body.decoder is not None:
        with blame_param("decoder"):
            options["decoder"] = client_decoder(body.decoder, decoder_files)
    options["logits_eos_inf"] = _without_stop_tokens(body)
    is_set = {name: value for name, value in options.items() if value is not None}
    values = {**defaults, **is_set}
    if body.top_k in (-1, 0):
        values["top_k"] = None
    if body.seed is None and values.get("temperature"):
        values["seed"] = secrets.randbelow(2**31)
    return from_mapping(GenerationConfig, values)


def _stops(body: Any) -> tuple[str, ...] | None:
    if body.stop is None:
        return None
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if "" in stops:
        hint = "Leave it out or give some text."
        raise OptionError("a stop string must not be empty", hint=hint, param="stop")
    return stops


def _without_stop_tokens(body: Any) -> bool | None:
    """The value of the option that has two names."""
    ignore_eos: bool | None = body.ignore_eos
    logits_eos_inf: bool | None = body.logits_eos_inf
    if ignore_eos is None:
        return logits_eos_inf
    if logits_eos_inf not in (None, ignore_eos):
        raise _contradiction({"ignore_eos": ignore_eos, "logits_eos_inf": logits_eos_inf})
    return ignore_eos


def _contradiction(values: Mapping[str, Any]) -> OptionError:
    what = f"{' and '.join(values)} contradict each other"
    return OptionError(what, given=values, hint="Give one of them.", param=next(iter(values)))
