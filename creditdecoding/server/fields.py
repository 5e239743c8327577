"""Fields of OpenAI's and vLLM's requests that the schema does not declare: ignored, because they
change no answer, or refused, and why.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from creditdecoding.errors import unknown_name

MAX_SHOWN_NAME = 80  # characters of a client's field name in an error

Refused = Mapping[str, tuple[tuple[Any, ...], str]]
"""Name -> the values that change nothing and pass, and why others are refused."""

_ORDER = "tokens are not written left to right"
_GRAMMAR = "use a choice, a regex or a JSON schema in place of a grammar"
_TOOLS = "the server calls no tools"
_TEXT = "prompts and answers are only text"
_REASONS: dict[str, dict[str, tuple[Any, ...]]] = {
    _GRAMMAR: {
        "grammar": (),
        "guided_grammar": (),
    },
    "there is one way to constrain answers": {
        "guided_decoding_backend": (),
        "guided_whitespace_pattern": (),
    },
    _TOOLS: {
        "tools": ([],),
        "functions": ([],),
        "tool_choice": ("none", "auto"),
        "function_call": ("none", "auto"),
        "web_search_options": (),
    },
    f"penalties need the text to the left, and {_ORDER}": {
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "repetition_penalty": (1,),
        "length_penalty": (1,),
    },
    "the prompt has no log-probabilities": {"prompt_logprobs": ()},
    "requests cannot change logits": {"logit_bias": ({},), "logits_processors": ([],)},
    "use temperature, top_k and top_p": {
        "min_p": (0,),
        "typical_p": (1,),
        "use_beam_search": (False,),
    },
    _TEXT: {"audio": (), "modalities": (["text"],)},
    "texts are not moderated": {"moderation": ()},
    "use n": {"best_of": (1,)},
    "answers do not repeat the prompt": {"echo": (False,)},
    "use ignore_eos to fill the whole answer": {"min_tokens": (0,)},
    "use stop, with strings": {"stop_token_ids": ([],), "include_stop_str_in_output": (False,)},
    "special tokens are never part of the text": {"skip_special_tokens": (True,)},
    "the prompt is used as it is": {
        "truncate_prompt_tokens": (),
        "prompt_embeds": (),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "documents": ([],),
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
    },
    "requests are not stored": {"store": (False,)},
    "all requests are served alike": {"service_tier": ("auto", "default"), "priority": (0,)},
}
REFUSED: Refused = {
    name: (neutral, why) for why, names in _REASONS.items() for name, neutral in names.items()
}
"""Of a request: known and not served."""

COMPLETION_REFUSED: Refused = {
    **REFUSED,
    "top_logprobs": ((0,), "use logprobs, with a number"),
}
"""Of a request to /v1/completions."""

HARMLESS = {
    "metadata": "not stored",
    "parallel_tool_calls": _TOOLS,
    "prediction": "a hint for speed; the answer is the same",
    "prompt_cache_key": "prompts are not cached between requests",
    "prompt_cache_options": "prompts are not cached between requests",
    "prompt_cache_retention": "prompts are not cached between requests",
    "reasoning_effort": "there is no separate reasoning",
    "request_id": "not used",
    "safety_identifier": "not used",
    "spaces_between_special_tokens": "special tokens are never part of the text",
    "user": "not used",
    "verbosity": "a hint; put it into the prompt",
}
"""Of a request: taken whatever it says, because it changes no answer, and why."""

MESSAGE_REFUSED: Refused = {
    "refusal": (("",), "only the content of an assistant's turn is used"),
    "tool_calls": (([],), _TOOLS),
    "function_call": ((), _TOOLS),
    "tool_call_id": ((), _TOOLS),
    "audio": ((), _TEXT),
    "reasoning": (("",), "only the content of an assistant's turn is used"),
    "reasoning_content": (("",), "only the content of an assistant's turn is used"),
}
"""Of a message."""

MESSAGE_HARMLESS = {
    "name": "chat templates do not use it",
    "annotations": "only the text is used",
}
"""Of a message."""

PART_REFUSED: Refused = dict.fromkeys(
    ("image_url", "input_audio", "file", "video_url", "audio_url", "refusal"), ((), _TEXT)
)
PART_HARMLESS = {"prompt_cache_breakpoint": "prompts are not cached between requests"}
"""Of a part of a message."""

STREAM_HARMLESS = {"include_obfuscation": "events are not padded"}
"""Of stream_options."""


@dataclass(frozen=True)
class Refusal:
    """A field that is not accepted, and the error's message."""

    field: str
    message: str


def accepted_fields(
    body: Mapping[str, Any],
    declared: Collection[str],
    refused: Refused,
    harmless: Collection[str],
) -> dict[str, Any] | Refusal:
    """The declared fields that are not null, or the first field that is not accepted.

    Stops at the first bad field, so that a body with many of them costs nothing.
    """
    accepted: dict[str, Any] = {}
    for name, value in body.items():
        if name in declared:
            if value is not None:
                accepted[name] = value
        elif name in refused:
            neutral, reason = refused[name]
            if value is not None and not _is_among(value, neutral):
                return Refusal(name, f"{name} is not supported: {reason}. Leave it out.")
        elif name not in harmless:
            shown_name = name[:MAX_SHOWN_NAME].encode("utf-8", "replace").decode()
            return Refusal(shown_name, str(unknown_name("field", shown_name, declared)))
    return accepted


def _is_among(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether a value equals one of those that change nothing; true is not the number 1."""
    return any(
        value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral
    )
