"""From a validated body to the requests that answer it: what HTTP and batches share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from creditdecoding.choice_scores import scores_of
from creditdecoding.config import GenerationConfig
from creditdecoding.constraints.constraint import Constraint
from creditdecoding.decoding.cache_policy import parse_policy
from creditdecoding.decoding.request import Request, check_supported
from creditdecoding.errors import OptionError, blame_param, short_repr
from creditdecoding.lm import LM
from creditdecoding.server import schema
from creditdecoding.server.admission import Limits, PromptRoom, check_answer_count, check_texts
from creditdecoding.server.constraint_fields import constraint_of
from creditdecoding.server.error_responses import ModelNotFoundError
from creditdecoding.server.gap_requests import gap_requests, has_gaps
from creditdecoding.server.responses import ResponseFormat
from creditdecoding.server.schema import NO_LIMIT, ChatRequest, CompletionRequest
from creditdecoding.wording import count

BODY_TYPES: dict[str, type[ChatRequest] | type[CompletionRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}
"""The endpoints that generate, and what a body must be there."""


def check_model(model: str | None, name: str) -> None:
    """Raise `ModelNotFoundError` for another model than `name`."""
    if model not in (None, name):
        hint = "Leave model out, or name this one."
        raise ModelNotFoundError(f"there is no model {short_repr(model)}", allowed=name, hint=hint)


def check_body(body: Any, name: str) -> None:
    """Raise `OptionError` for a body that the model `name` cannot serve, whatever its prompt."""
    check_model(body.model, name)
    for field in ("draft", "stream_options"):
        if getattr(body, field) and not body.stream:
            hint = "Set stream to true, or leave it out."
            raise OptionError(f"{field} needs stream", hint=hint, param=field)
    if body.top_count and body.logprobs in (None, False):
        hint = "Set logprobs to true, or leave it out."
        raise OptionError("top_logprobs needs logprobs", hint=hint, param="top_logprobs")


def make_requests(lm: LM, body: Any, limits: Limits) -> list[Request]:
    """A request per answer: prompts in order, `n` of each; number k has `sample_seed(seed, k)`.

    Raises `OptionError`. What can never be admitted is refused before it is tokenised.
    """
    samples = body.n or 1
    check_answer_count(body.prompt_count, samples, limits)
    config = schema.generation_config(body, lm.defaults, limits.decoder_files)
    check_runnable(lm, config)
    if has_gaps(body):
        return gap_requests(lm, body, config, limits)
    room = _prompt_room(lm, body, config)
    constraint = _constraint(lm, body, config)
    prompts, suffix = _token_ids(lm, body, room, limits)
    requests: list[Request] = []
    for prompt in prompts:
        room.check_tokens(len(prompt) + len(suffix), body.prompt_field)
        if schema.answer_length(body)[1] == NO_LIMIT:
            config = replace(config, gen_length=max(1, lm.max_length - len(prompt)))
        with blame_param(body.prompt_field):
            request = lm.new_request(prompt, config, suffix=suffix, constraint=constraint)
        request = replace(request, top_logprobs=body.top_count)
        numbers = range(len(requests), len(requests) + samples)
        requests += [request.sample(number) for number in numbers]
    return requests


def _constraint(lm: LM, body: Any, config: GenerationConfig) -> Constraint | None:
    """What the body's answers must satisfy, compiled once so that errors name its field."""
    constrained = constraint_of(body)
    if constrained is None:
        return None
    field, constraint = constrained
    with blame_param(field):
        has_suffix = bool(getattr(body, "suffix", None))
        lm.constraints.compile(constraint, not has_suffix and not config.logits_eos_inf)
    return constraint


def check_runnable(lm: LM, config: GenerationConfig) -> None:
    """Raise `OptionError` for a decoder or a cache that the model cannot run."""
    with blame_param("decoder"):
        check_supported(config.decoder, lm.geometry)
    with blame_param("cache"):
        parse_policy(config.cache, lm.geometry)


def no_room(lm: LM, name: str, length: int) -> OptionError:
    """The error for an answer that alone is as long as the model."""
    return OptionError(
        f"prompt and {name} do not fit into the model",
        given=f"{name}={length}",
        allowed=f"{lm.max_length} together",
        hint=f"Lower {name}.",
        param=name,
    )


def _prompt_room(lm: LM, body: Any, config: GenerationConfig) -> PromptRoom:
    """Tokens that a prompt may have."""
    name, length = schema.answer_length(body)
    if length == NO_LIMIT:
        return PromptRoom(lm.max_length - 1)
    if config.gen_length >= lm.max_length:
        raise no_room(lm, name, config.gen_length)
    return PromptRoom(lm.max_length - config.gen_length, name)


def _token_ids(
    lm: LM, body: Any, room: PromptRoom, limits: Limits
) -> tuple[list[list[int]], list[int]]:
    """Ids of each prompt, and of the suffix."""
    if isinstance(body, ChatRequest):
        return [_chat_ids(lm, body, room, limits)], []
    prompts = body.prompts()
    for prompt in prompts:
        _check_prompt(lm, prompt, room, limits)
    suffix = _suffix_ids(lm, body, room, limits)
    with blame_param("prompt"):
        return [_prompt_ids(lm, prompt, suffix) for prompt in prompts], suffix


def _chat_ids(lm: LM, body: ChatRequest, room: PromptRoom, limits: Limits) -> list[int]:
    turn_count = len(body.messages)
    if turn_count > room.tokens:  # each has at least a token
        raise room.too_long(count(turn_count, "turn"), count(room.tokens, "token"), "messages")
    turns = [message.turn() for message in body.messages]
    check_texts(lm, [turn["content"] for turn in turns], room, limits, "messages")
    with blame_param("messages"):
        return lm.encode(turns)


def _check_prompt(lm: LM, prompt: str | list[int], room: PromptRoom, limits: Limits) -> None:
    if isinstance(prompt, str):
        check_texts(lm, [prompt], room, limits, "prompt")
        return
    room.check_tokens(len(prompt), "prompt")
    if min(prompt) < 0 or max(prompt) >= lm.vocab.size:
        raise OptionError(
            "prompt has a token id outside the vocabulary",
            allowed=f"0 to {lm.vocab.size - 1}",
            hint="Change the prompt.",
            param="prompt",
        )


def _prompt_ids(lm: LM, prompt: str | list[int], suffix: Sequence[int]) -> list[int]:
    """Ids of a prompt, which may be empty before a suffix."""
    if isinstance(prompt, list):
        return prompt
    return [] if suffix and not prompt else lm.encode(prompt, raw=True)


def _suffix_ids(lm: LM, body: CompletionRequest, room: PromptRoom, limits: Limits) -> list[int]:
    if not body.suffix:
        return []
    name, length = schema.answer_length(body)
    if length == NO_LIMIT:
        raise OptionError(
            f"with suffix, {name} must be the number of tokens between prompt and suffix",
            given=NO_LIMIT,
            allowed="1 or more",
            hint="Give a number.",
            param=name,
        )
    check_texts(lm, [body.suffix], room, limits, "suffix")
    with blame_param("suffix"):
        return lm.encode_text(body.suffix)


def make_response_format(
    lm: LM, name: str, body: Any, requests: Sequence[Request], **identity: Any
) -> ResponseFormat:
    """The format of the response; `identity` (`id`, `created`) is new unless given."""
    is_chat = isinstance(body, ChatRequest)
    scored = None if is_chat else body.score_choices
    one_per_prompt = requests[:1] if scored else requests[:: body.n or 1]
    options = body.stream_options or schema.StreamOptions()
    return ResponseFormat(
        is_chat=is_chat,
        model=name,
        tokenizer=lm.tokenizer,
        prompt_tokens=sum(request.given_tokens for request in one_per_prompt),
        top_logprobs=body.top_count,
        scores=functools.partial(scores_of, lm, scored) if scored else None,
        logprobs=bool(body.logprobs) if is_chat else body.logprobs is not None,
        final_usage=bool(options.include_usage),
        continuous_usage=bool(options.continuous_usage_stats),
        **identity,
    )
