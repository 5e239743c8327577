"""Requests of /v1/completions whose text has gaps, which are filled or have choices scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from creditdecoding.choice_scores import choice_requests
from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import Request
from creditdecoding.errors import OptionError, blame_param
from creditdecoding.lm import LM
from creditdecoding.server.admission import Limits, PromptRoom, check_texts
from creditdecoding.server.constraint_fields import CONSTRAINT_FIELDS
from creditdecoding.text.gaps import Gap, split_gaps

_NOT_IN_GAPS = (
    "max_tokens",
    "max_completion_tokens",
    "gen_length",
    "stop",
    "draft",
    *CONSTRAINT_FIELDS,
)
"""Fields that say how an answer ends: a gap is as long as its marker says."""
_NOT_SCORED = (
    "stream",
    "decoder",
    "temperature",
    "top_k",
    "top_p",
)
"""Fields that say how tokens are written: to score writes none."""


def has_gaps(body: Any) -> bool:
    """Whether the body's prompt has gaps, or choices are scored after it."""
    return bool(getattr(body, "template", None) or getattr(body, "score_choices", None))


def gap_requests(lm: LM, body: Any, config: GenerationConfig, limits: Limits) -> list[Request]:
    """The requests that fill the gaps, `n` of them, or those that score choices.

    Raises `OptionError` that names the field for malformed gaps, a text that does not fit, and
    fields that have no meaning here.
    """
    _check_fields(body)
    pieces = _pieces(lm, body)
    texts = [piece for piece in pieces if isinstance(piece, str)]
    check_texts(lm, texts, PromptRoom(lm.max_length), limits, "prompt")
    if body.score_choices:
        return _score_requests(lm, body, pieces, config, limits)
    with blame_param("prompt"):
        request = lm.new_infill_request(body.prompt, config)
    request = replace(request, top_logprobs=body.top_count)
    return [request.sample(number) for number in range(body.n or 1)]


def _score_requests(
    lm: LM,
    body: Any,
    pieces: Sequence[str | list[int] | Gap],
    config: GenerationConfig,
    limits: Limits,
) -> list[Request]:
    """A request for each length of a choice."""
    texts = [choice for choice in body.score_choices if isinstance(choice, str)]
    for text in texts:
        check_texts(lm, [text], PromptRoom(lm.max_length), limits, "score_choices")
    with blame_param("score_choices"):
        requests = choice_requests(lm, pieces, body.score_choices, config, body.top_count)
    if len(requests) > limits.answers:
        raise OptionError(
            "the choices have more different lengths than fit at once",
            given=len(requests),
            allowed=limits.answers,
            hint="Score them in several requests.",
            param="score_choices",
        )
    return requests


def _pieces(lm: LM, body: Any) -> list[str | list[int] | Gap]:
    """The text around the gaps; without a template the gap is between prompt and suffix."""
    with blame_param("prompt"):
        if body.template:
            return [*split_gaps(body.prompt, lm.max_length)]
        prompt = body.prompts()[0]
        if not isinstance(prompt, str):
            PromptRoom(lm.max_length).check_tokens(len(prompt), "prompt")
            lm.check_prompt_ids(prompt)
        pieces = [prompt, Gap(1, fixed=False), body.suffix or ""]
        return [piece for piece in pieces if piece]


def _check_fields(body: Any) -> None:
    """Refuse fields that would change nothing."""
    if body.score_choices:
        _check_unset(body, (*_NOT_IN_GAPS, *_NOT_SCORED), "score_choices")
        _check_prompt(body, "score_choices")
    else:
        _check_unset(body, _NOT_IN_GAPS, "template")
        _check_prompt(body, "template")
    if body.template and body.suffix:
        hint = "Write it into the prompt, after the gap."
        raise OptionError("a template has no suffix", hint=hint, param="suffix")
    if body.score_choices and (body.n or 1) > 1:
        raise OptionError("to score takes no n", hint="Leave n out.", param="n")


def _check_unset(body: Any, names: Sequence[str], mode: str) -> None:
    """Refuse a body with one of these fields."""
    for name in names:
        if getattr(body, name):
            raise OptionError(
                f"{name} has no meaning with {mode}",
                hint="Leave one of them out.",
                param=name,
            )


def _check_prompt(body: Any, mode: str) -> None:
    """Refuse several prompts, and a template of ids."""
    if body.prompt_count > 1:
        prompt = f"{body.prompt_count} prompts"
    elif body.template and not isinstance(body.prompt, str):
        prompt = "ids"
    else:
        return
    raise OptionError(
        f"{mode} takes one prompt",
        given=prompt,
        allowed="a text",
        hint="Send several requests.",
        param="prompt",
    )
