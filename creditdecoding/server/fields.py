"""Fields of OpenAI's and vLLM's requests that the schema does not declare: what each is taken for,
or why it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from creditdecoding.errors import unknown_name

NAME = 80  # characters of a client's field name that an error repeats

Refused = Mapping[str, tuple[tuple[Any, ...], str]]
"""Name -> the values that change nothing, and why others are refused."""

_ORDER = "tokens are not written left to right"
_GRAMMAR = f"grammars are followed from the left, {_ORDER} (docs/serving.md)"
_TOOLS = "tools are not called"
_TEXT = "text is all there is"
_REASONS: dict[str, dict[str, tuple[Any, ...]]] = {
    _GRAMMAR: {
        "response_format": ({"type": "text"},),
        "grammar": (),
        "guided_choice": (),
        "guided_decoding_backend": (),
        "guided_grammar": (),
        "guided_json": (),
        "guided_regex": (),
        "guided_whitespace_pattern": (),
        "structured_outputs": (),
    },
    _TOOLS: {
        "tools": ([],),
        "functions": ([],),
        "tool_choice": ("none", "auto"),
        "function_call": ("none", "auto"),
        "web_search_options": (),
    },
    f"penalties count what stands to the left, and {_ORDER}": {
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "repetition_penalty": (1,),
        "length_penalty": (1,),
    },
    "alternatives are not kept; logprobs tells of the written tokens": {"top_logprobs": (0,)},
    "log-probabilities of the prompt are not computed": {"prompt_logprobs": ()},
    "logits are not changed by request": {"logit_bias": ({},), "logits_processors": ([],)},
    "draw with temperature, top_k and top_p": {
        "min_p": (0,),
        "typical_p": (1,),
        "use_beam_search": (False,),
    },
    _TEXT: {"audio": (), "modalities": (["text"],)},
    "answers are not judged": {"moderation": ()},
    "ask for n answers": {"best_of": (1,)},
    "answers come without their prompt": {"echo": (False,)},
    "ignore_eos fills the whole answer": {"min_tokens": (0,)},
    "stop takes texts": {"stop_token_ids": ([],), "include_stop_str_in_output": (False,)},
    "special tokens are left out of texts": {"skip_special_tokens": (True,)},
    "the prompt is read as it is": {
        "truncate_prompt_tokens": (),
        "prompt_embeds": (),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "documents": ([],),
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
    },
    "nothing is kept": {"store": (False,)},
    "there is one kind of service": {"service_tier": ("auto", "default"), "priority": (0,)},
}
REFUSED: Refused = {
    name: (neutral, why) for why, names in _REASONS.items() for name, neutral in names.items()
}
"""Of a request: known and not served."""

HARMLESS = {
    "metadata": "kept by nobody",
    "parallel_tool_calls": "there are no tools",
    "prediction": "a hint that makes others faster; the answer is the same",
    "prompt_cache_key": "nothing is kept between requests",
    "prompt_cache_options": "nothing is kept between requests",
    "prompt_cache_retention": "nothing is kept between requests",
    "reasoning_effort": "the model does not reason before it answers",
    "request_id": "not used",
    "safety_identifier": "not used",
    "spaces_between_special_tokens": "special tokens are left out of texts",
    "user": "not used",
    "verbosity": "a hint; say it in the prompt",
}
"""Of a request: taken whatever it says, because it changes no answer, and why."""

MESSAGE_REFUSED: Refused = {
    "refusal": (("",), "an assistant's turn is its content"),
    "tool_calls": (([],), _TOOLS),
    "function_call": ((), _TOOLS),
    "tool_call_id": ((), _TOOLS),
    "audio": ((), _TEXT),
    "reasoning": (("",), "an assistant's turn is its content"),
    "reasoning_content": (("",), "an assistant's turn is its content"),
}
"""Of a message."""

MESSAGE_HARMLESS = {
    "name": "the chat template has no place for it",
    "annotations": "what stands beside the text",
}
"""Of a message."""

PART_REFUSED: Refused = dict.fromkeys(
    ("image_url", "input_audio", "file", "video_url", "audio_url", "refusal"), ((), _TEXT)
)
PART_HARMLESS = {"prompt_cache_breakpoint": "nothing is kept between requests"}
"""Of a part of a message."""

STREAM_HARMLESS = {"include_obfuscation": "nothing is padded"}
"""Of stream_options."""


@dataclass(frozen=True)
class Refusal:
    """A field that is not taken: its name as an error shows it, and why."""

    field: str
    message: str


def accepted_fields(
    given: Mapping[str, Any],
    declared: Mapping[str, Any],
    refused: Refused,
    harmless: Mapping[str, str],
) -> dict[str, Any] | Refusal:
    """The declared fields of an object that have a value, or the first field that is not taken.

    Null is as good as leaving a field out. The work is bounded by the fields before the first bad
    one.
    """
    kept: dict[str, Any] = {}
    for name, value in given.items():
        if name in declared:
            if value is not None:
                kept[name] = value
        elif name in refused:
            neutral, why = refused[name]
            if value is not None and not _equals_one(value, neutral):
                return Refusal(name, f"{name} is not supported: {why}. Leave it out.")
        elif name not in harmless:
            shown = name[:NAME].encode("utf-8", "replace").decode()
            return Refusal(shown, str(unknown_name("field", shown, declared)))
    return kept


def _equals_one(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether a value is one of those that change nothing; true is not the number 1."""
    alike = (other for other in neutral if isinstance(value, bool) == isinstance(other, bool))
    return any(value == other for other in alike)
