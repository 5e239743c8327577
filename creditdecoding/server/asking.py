"""From a request's checked body to the rows that answer it and the shape of the answer: what HTTP and batches of lines share.

Leaves to others: fields (schema.py), JSON of answers and errors (shapes.py), who decodes the rows (service.py, batch/).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from creditdecoding.canvas import Row
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.server import schema
from creditdecoding.server.schema import ChatRequest, CompletionRequest
from creditdecoding.server.shapes import Shape, error_body

ROUTES: dict[str, type[ChatRequest] | type[CompletionRequest]] = {"/v1/chat/completions": ChatRequest, "/v1/completions": CompletionRequest}
"""Where rows can be asked for, and what a body must be there."""


def unknown_model(model: str, name: str) -> tuple[int, dict[str, Any]]:
    """Status and body for a model that is not the one there is, `name`."""
    return 404, error_body(404, f"there is no model {model!r}; allowed: {name}. Leave model out, or name this one.", "model", "model_not_found")


def objection(asked: Any, name: str) -> tuple[int, dict[str, Any]] | None:
    """Status and body for a request that the model `name` does not serve, whatever its prompt says."""
    if asked.model is not None and asked.model != name:
        return unknown_model(asked.model, name)
    if (asked.draft or asked.stream_options) and not asked.stream:
        given = "draft" if asked.draft else "stream_options"
        return 400, error_body(400, f"{given} needs stream. Set stream to true, or leave it out.", given)
    return None


def complaint(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """Message and field of a body that pydantic refused: of a field that may be of several types, what its own type says."""
    first = min(errors, key=lambda each: (str(each["type"]).endswith("_type"), -len(each["loc"])))
    unknown = first["loc"][-1] if first["type"] == "extra_forbidden" else None
    where = ".".join(str(part)[:80] for part in first["loc"] if isinstance(part, int) or part in schema.NAMES or part == unknown)
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first['ctx']['error']} at character {where}. Send a JSON object.", None
    if not where:
        return "the body is not a JSON object. Send one, with content-type: application/json.", None
    return f"{where}: {first['msg']}. Correct it and try again.", where


def rows_of(lm: LM, asked: Any) -> list[Row]:
    """A row for each answer: prompts in order, `n` of each. Raises `OptionError`."""
    config = schema.generation(asked)
    choices = [replace(config, seed=(config.seed + i) % (schema.MAX_SEED + 1)) for i in range(asked.n or 1)]
    return [lm.row(ids, choice) for ids in _prompts(lm, asked) for choice in choices]


def shape_of(lm: LM, name: str, asked: Any, rows: Sequence[Row], **head: Any) -> Shape:
    """How the answer of these rows looks; `head` has what tells it from others (`number`, `created`)."""
    chat = isinstance(asked, ChatRequest)
    count, options = sum(row.answer for row in rows[:: asked.n or 1]), asked.stream_options or schema.StreamOptions()
    logprobs = bool(asked.logprobs) if chat else asked.logprobs is not None
    counted, counting = bool(options.include_usage), bool(options.continuous_usage_stats)
    return Shape(chat, name, lm.tokenizer, count, logprobs, counted, counting, **head)


def _prompts(lm: LM, asked: Any) -> list[list[int]]:
    """Ids of each prompt."""
    if isinstance(asked, ChatRequest):
        return [lm.encode([message.turn() for message in asked.messages])]
    return [_ids(lm, prompt) for prompt in asked.prompts()]


def _ids(lm: LM, prompt: str | list[int]) -> list[int]:
    """Ids of a raw prompt."""
    if isinstance(prompt, str):
        return lm.encode(prompt, raw=True)
    if not all(0 <= token < lm.words.size for token in prompt):
        raise OptionError("prompt has a token id that means nothing", allowed=f"0 to {lm.words.size - 1}", hint="Change the prompt.")
    return prompt
