"""From a request's checked body to the rows that answer it and the shape of the answer: what HTTP
and batches of lines share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import load
from creditdecoding.decoding.cache_policy import parse_policy
from creditdecoding.decoding.request import Request, check_supported, sample_seed
from creditdecoding.errors import OptionError, blame_param, short_repr
from creditdecoding.lm import LM
from creditdecoding.options import from_mapping
from creditdecoding.server import schema
from creditdecoding.server.admission import Limits, check_answer_count, check_texts, too_long
from creditdecoding.server.responses import ResponseFormat, error_body
from creditdecoding.server.schema import ChatRequest, CompletionRequest

BODY_TYPES: dict[str, type[ChatRequest] | type[CompletionRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}
"""Where rows can be asked for, and what a body must be there."""


def resolve_defaults(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """An operator's defaults with the decoder made, be it named or in a file. Raises `OptionError`."""
    if "decoder" not in defaults:
        return dict(defaults)
    rule, width = load(defaults["decoder"])
    width_of_file = {} if width is None else {"block_length": width}
    return {**width_of_file, **defaults, "decoder": rule}


def apply_defaults(lm: LM, defaults: Mapping[str, Any]) -> None:
    """Lay an operator's defaults over the checkpoint's. Raises `OptionError` for what the model
    cannot run.
    """
    values = {**lm.defaults, **defaults}
    config = from_mapping(GenerationConfig, values)
    _check_rule(lm, config)
    if config.gen_length >= lm.max_length:
        raise _no_room(lm, "gen_length", config.gen_length)
    lm.defaults = values


def unknown_model(model: str, name: str) -> tuple[int, dict[str, Any]]:
    """Status and body for a model that is not the one there is, `name`."""
    return 404, error_body(
        404,
        f"there is no model {short_repr(model)}; allowed: {name}. Leave model out, or name this one.",
        "model",
        "model_not_found",
    )


def refusal_reason(asked: Any, name: str) -> tuple[int, dict[str, Any]] | None:
    """Status and body for a request that the model `name` does not serve, whatever its prompt says."""
    if asked.model is not None and asked.model != name:
        return unknown_model(asked.model, name)
    if (asked.draft or asked.stream_options) and not asked.stream:
        given = "draft" if asked.draft else "stream_options"
        return 400, error_body(
            400, f"{given} needs stream. Set stream to true, or leave it out.", given
        )
    return None


def validation_message(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """Message and field of a body that pydantic refused: of a field that may be of several types,
    what its own type says.
    """
    first = min(errors, key=lambda error: (_is_of_kind(error), -len(error["loc"])))
    path = [
        str(part) for part in first["loc"] if isinstance(part, int) or part in schema.FIELD_NAMES
    ]
    if first["type"] == schema.REFUSAL:
        return first["ctx"]["message"], ".".join([*path, first["ctx"]["field"]])
    where = ".".join(path)
    if first["type"] == "json_invalid":
        return (
            f"the body is not JSON: {first['ctx']['error']} at character {where}. Send a JSON object.",
            None,
        )
    if not where:
        return "the body is not a JSON object. Send one, with content-type: application/json.", None
    return f"{where}: {first['msg']}. Correct it and try again.", where


def _is_of_kind(error: Mapping[str, Any]) -> bool:
    """Whether an error says no more than that a value is not of some type."""
    return str(error["type"]).endswith("_type") or error["type"] == "literal_error"


def make_requests(lm: LM, asked: Any, limits: Limits) -> list[Request]:
    """A row for each answer: prompts in order, `n` of each. Raises `OptionError`.

    Nothing is tokenised, and no row made, of a request that can never be admitted. The k-th row
    draws with `sample_seed(seed, k)`.
    """
    n = asked.n or 1
    check_answer_count(_prompts(asked), n, limits)
    config = schema.generation_config(asked, lm.defaults)
    _check_rule(lm, config)
    name, length = schema.answer_length(asked)
    room = lm.max_length - (1 if length == -1 else config.gen_length)
    if room < 1:
        raise _no_room(lm, name, config.gen_length)
    prompts, suffix = _tokens(lm, asked, room, limits)
    rows: list[Request] = []
    for prompt in prompts:
        if length == -1:
            config = replace(config, gen_length=max(1, lm.max_length - len(prompt)))
        with blame_param(_field(asked)):
            row = lm.new_request(prompt, config, suffix=suffix)
        for _ in range(n):
            seed = sample_seed(config.seed, len(rows))
            rows.append(replace(row, config=replace(row.config, seed=seed)))
    return rows


def response_format(
    lm: LM, name: str, asked: Any, rows: Sequence[Request], **head: Any
) -> ResponseFormat:
    """How the answer of these rows looks; `head` has what tells it from others (`number`,
    `created`).
    """
    chat = isinstance(asked, ChatRequest)
    count = sum(row.answer_start + row.suffix_length for row in rows[:: asked.n or 1])
    options = asked.stream_options or schema.StreamOptions()
    logprobs = bool(asked.logprobs) if chat else asked.logprobs is not None
    counted, counting = bool(options.include_usage), bool(options.continuous_usage_stats)
    return ResponseFormat(chat, name, lm.tokenizer, count, logprobs, counted, counting, **head)


def _prompts(asked: Any) -> int:
    """How many prompts a request has."""
    return 1 if isinstance(asked, ChatRequest) else len(asked.prompts())


def _field(asked: Any) -> str:
    """The field that holds what is asked."""
    return "messages" if isinstance(asked, ChatRequest) else "prompt"


def _check_rule(lm: LM, config: GenerationConfig) -> None:
    """Raise `OptionError` for a decoder or a cache that the model cannot run."""
    with blame_param("decoder"):
        check_supported(config.decoder, lm.geometry)
    with blame_param("cache"):
        parse_policy(config.cache, lm.geometry)


def _no_room(lm: LM, name: str, length: int) -> OptionError:
    """The answer alone is as long as the model."""
    return OptionError(
        "prompt and gen_length do not fit into the model",
        given=f"{name}={length}",
        allowed=f"{lm.max_length} together",
        hint=f"Lower {name}.",
        param=name,
    )


def _tokens(lm: LM, asked: Any, room: int, limits: Limits) -> tuple[list[list[int]], list[int]]:
    """Ids of each prompt, and of the text behind the answer. Raises `OptionError`."""
    if isinstance(asked, ChatRequest):
        if len(asked.messages) > room:  # each is a token at least
            raise too_long(f"{len(asked.messages)} turns", f"{room} tokens", "messages")
        turns = [message.turn() for message in asked.messages]
        check_texts(lm, [turn["content"] for turn in turns], room, limits, "messages")
        with blame_param("messages"):
            return [lm.encode(turns)], []
    prompts = asked.prompts()
    for prompt in prompts:
        _check_prompt(lm, prompt, room, limits)
    suffix = _suffix(lm, asked, room, limits)
    with blame_param("prompt"):
        return [_ids(lm, prompt, suffix) for prompt in prompts], suffix


def _check_prompt(lm: LM, prompt: str | list[int], room: int, limits: Limits) -> None:
    """Raise `OptionError` for a prompt that cannot fit, or has an id that means nothing."""
    if isinstance(prompt, str):
        check_texts(lm, [prompt], room, limits, "prompt")
    elif len(prompt) > room:
        raise too_long(f"{len(prompt)} tokens", f"{room} tokens", "prompt")
    elif not all(0 <= token < lm.vocab.size for token in prompt):
        what, allowed = "prompt has a token id that means nothing", f"0 to {lm.vocab.size - 1}"
        raise OptionError(what, allowed=allowed, hint="Change the prompt.", param="prompt")


def _suffix(lm: LM, asked: CompletionRequest, room: int, limits: Limits) -> list[int]:
    """Ids of the text behind the answer, empty without one. Raises `OptionError`."""
    if not asked.suffix:
        return []
    name, length = schema.answer_length(asked)
    if length == -1:
        what = f"{name} says how many tokens stand between prompt and suffix"
        raise OptionError(what, given=-1, allowed="1 or more", hint="Give a number.", param=name)
    check_texts(lm, [asked.suffix], room, limits, "suffix")
    with blame_param("suffix"):
        return lm.encode_text(asked.suffix)


def _ids(lm: LM, prompt: str | list[int], suffix: Sequence[int]) -> list[int]:
    """Ids of a raw prompt, which may be empty before a suffix."""
    if isinstance(prompt, list):
        return prompt
    return [] if suffix and not prompt else lm.encode(prompt, raw=True)
