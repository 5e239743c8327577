"""Requests: OpenAI's fields by OpenAI's names, and the fields of `GenerationConfig` by their own, each declared once (config.py).

Leaves to others: HTTP (app.py), whether prompt and answer fit (canvas.py). What is known and not served is refused by name.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from typing import Annotated, Any, Literal

from creditdecoding.config import GenerationConfig, from_mapping, kinds
from creditdecoding.decoders import resolve
from creditdecoding.errors import MissingExtraError, OptionError, unknown_name

try:
    from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
except ImportError as error:
    raise MissingExtraError("pydantic", "server") from error

TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}
MAX_CHOICES, MAX_STOPS = 64, 16
Invalid = ValidationError
"""What a body that breaks these rules raises."""

_GRAMMAR = "grammars are followed left to right, tokens here are not written in that order (docs/serving.md)"
_REFUSED: dict[str, dict[str, tuple[Any, ...]]] = {
    _GRAMMAR: {
        "response_format": ({"type": "text"},),
        **dict.fromkeys(("grammar", "guided_choice", "guided_grammar", "guided_json", "guided_regex", "structured_outputs"), ()),
    },
    "tools are not called": {
        "tools": ([],),
        "functions": ([],),
        "tool_choice": ("none",),
        "function_call": ("none",),
        "parallel_tool_calls": (),
        "web_search_options": (),
    },
    "penalties count tokens written left to right": {"frequency_penalty": (0,), "presence_penalty": (0,), "repetition_penalty": (1,)},
    "alternatives are not kept; logprobs tells of the written tokens": {"top_logprobs": (0,)},
    "logits are not changed by request": {"logit_bias": ({},)},
    "text is all there is": {"audio": (), "modalities": (["text"],)},
    "ask for n answers": {"best_of": (1,)},
    "answers come without their prompt": {"echo": (False,)},
    "ignore_eos fills the whole answer": {"min_tokens": (0,)},
    "only whole answers are written": {"suffix": ("",), "prediction": ()},
    "nothing is kept": {"store": (False,), "metadata": ({},)},
    "there is one kind of service": {"service_tier": ("auto", "default"), "reasoning_effort": ()},
}
REFUSED = {name: (neutral, why) for why, names in _REFUSED.items() for name, neutral in names.items()}
"""Known and not served: the values that change nothing, and why."""


class Strict(BaseModel):
    """No unknown fields, no conversions between types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """Of a streamed answer."""

    include_usage: bool | None = Field(default=None, description="A last event with the counts and no choices.")
    continuous_usage_stats: bool | None = Field(default=None, description="vLLM's: the counts so far in every event.")


class _Asked(Strict):
    """What both kinds of request share; None is as good as leaving a field out."""

    model: str | None = Field(default=None, description="The name under /v1/models; may be left out.")
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = Field(
        default=None, description="The answer is cut before the first of these."
    )
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES, description="Answers a prompt; their seeds count up.")
    decoder: str | dict[str, Any] | None = Field(default=None, description='NAME, NAME:knob=value,... or {"name": NAME, knob: value}.')
    ignore_eos: bool | None = Field(default=None, description="vLLM's name of logits_eos_inf: never write a stop token.")
    stream: bool | None = Field(default=None, description="Server-sent events: text as it becomes final.")
    stream_options: StreamOptions | None = None
    draft: bool | None = Field(default=None, description="With stream: the whole canvas after every forward pass as well.")
    user: str | None = Field(default=None, description="Not used.")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """The body without what it need not say. Raises `OptionError` naming a field that is not served, or not known."""
        if not isinstance(given, dict):
            return given
        try:
            json.dumps(given, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise OptionError("the body holds half of a surrogate pair, which is no character", hint="Send valid Unicode.") from error
        for name, value in given.items():
            if name in cls.model_fields:
                continue
            if name not in REFUSED:
                raise unknown_name("field", name[:80], cls.model_fields)
            neutral, why = REFUSED[name]
            if value is not None and value not in neutral:
                raise OptionError(f"{name} is not supported: {why}", hint="Leave it out.")
        return {name: value for name, value in given.items() if name in cls.model_fields}


OPTIONS = {field.name: field for field in dataclasses.fields(GenerationConfig)}
MAX_SEED = OPTIONS["seed"].metadata["le"]
LENGTHS = ("max_tokens", "max_completion_tokens", "gen_length")
_MEANT = {**dict.fromkeys(LENGTHS, "gen_length"), **{name: name for name in OPTIONS if name not in _Asked.model_fields}}


def _own(field: dataclasses.Field[Any]) -> Any:
    """A pydantic field for an option of `GenerationConfig`; None stands for its default."""
    meta = field.metadata
    bounds = {name: meta[name] for name in ("ge", "gt", "le") if meta.get(name) is not None}
    kind: Any = Annotated[TYPES[kinds(field)[0]], Field(**bounds)]  # type: ignore[valid-type]
    return (kind | None, Field(None, description=f"{meta['help']} Default: {field.default!r}."))


_Options: Any = create_model("_Options", __base__=_Asked, **{name: _own(OPTIONS[option]) for name, option in _MEANT.items()})


class ErrorInfo(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """Every response that is not an answer."""

    error: ErrorInfo


class Text(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Text], Field(min_length=1)]

    def turn(self) -> dict[str, str]:
        """As the chat template takes it."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)}


class ChatRequest(_Options):  # type: ignore[misc]
    """Body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    logprobs: bool | None = Field(default=None, description="Log-probability of every token at the pass that wrote it.")


Ids = Annotated[list[int], Field(min_length=1)]


class CompletionRequest(_Options):  # type: ignore[misc]
    """Body of /v1/completions: plain text, continued without the chat template."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_CHOICES)]
    )
    logprobs: Annotated[int, Field(ge=0, le=0)] | None = Field(
        default=None, description="0: log-probability of every token at the pass that wrote it."
    )

    def prompts(self) -> list[str | list[int]]:
        """The prompts, texts or ids, one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if isinstance(self.prompt[0], int) else list(self.prompt)


NAMES = {name for model in (ChatRequest, CompletionRequest, Message, Text, StreamOptions) for name in model.model_fields}


def generation(asked: Any) -> GenerationConfig:
    """The options of a request. Raises `OptionError`."""
    given = {name: getattr(asked, name) for name in OPTIONS}
    lengths = {name: getattr(asked, name) for name in LENGTHS if getattr(asked, name) is not None}
    if len(set(lengths.values())) > 1:
        raise OptionError(f"{' and '.join(lengths)} say different things", given=lengths, hint="Give one of them.")
    given["gen_length"] = next(iter(lengths.values()), None)
    given["stop"] = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    given["decoder"] = None if asked.decoder is None else resolve(asked.decoder)
    if asked.ignore_eos is not None:
        if given["logits_eos_inf"] not in (None, asked.ignore_eos):
            raise OptionError("ignore_eos and logits_eos_inf say different things", hint="Give one of them.")
        given["logits_eos_inf"] = asked.ignore_eos
    if asked.seed is None and asked.temperature:
        given["seed"] = secrets.randbelow(2**31)
    return from_mapping(GenerationConfig, {name: value for name, value in given.items() if value is not None})
