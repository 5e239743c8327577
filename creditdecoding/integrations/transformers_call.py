"""Tells what the user set in a call of transformers' `generate` from what transformers adds itself.

Releases pass more and more to custom functions by themselves (5.24 a `cache`), so their names are
not listed here. The same call is made again with only the settings that we use, and a function that
records what it is given. What arrives there with an equal value was not set by the user.
"""

from __future__ import annotations

import inspect
import itertools
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig as HFGenerationConfig
from transformers import GenerationMixin

from creditdecoding.errors import OptionError

_LENGTHS = ("max_new_tokens", "max_length")
_SAMPLING = ("temperature", "top_k", "top_p")
_ENDS = ("eos_token_id", "pad_token_id")
_HARMLESS = ("use_cache", "bos_token_id", "transformers_version")
"""Settings that change nothing about an answer."""
_OTHER_USED = ("do_sample", "num_return_sequences", "return_dict_in_generate", "mask_token_id")
_USED = (*_LENGTHS, *_SAMPLING, *_ENDS, *_HARMLESS, *_OTHER_USED)
_NEUTRAL_AT_ONE = (
    *("num_beams", "num_beam_groups", "typical_p", "repetition_penalty"),
    *("encoder_repetition_penalty", "guidance_scale"),
)
_NEUTRAL_WHEN_FALSE = (
    *("min_new_tokens", "min_length", "max_time", "stop_strings", "use_mtp", "min_p", "top_h"),
    *("epsilon_cutoff", "eta_cutoff", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "renormalize_logits", "forced_bos_token_id", "forced_eos_token_id"),
    *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens"),
    *("begin_suppress_tokens", "sequence_bias", "token_healing", "watermarking_config"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("penalty_alpha", "dola_layers", "constraints", "force_words_ids"),
    *("prompt_lookup_num_tokens", "diversity_penalty"),
)
_REACHING = (
    *("self", "inputs", "generation_config", "logits_processor", "stopping_criteria"),
    *("prefix_allowed_tokens_fn", "streamer", "custom_generate", "kwargs"),
)
"""Named arguments of `generate` that reach a custom function, and the streamer."""


@dataclass
class FunctionInputs:
    """What a custom function gets: the generation config, logits processors and stopping criteria,
    and all other arguments.
    """

    config: Any
    functions: list[Any] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)


def refuse_user_settings(model: Any, input_ids: Tensor, inputs: FunctionInputs) -> None:
    """Raise `OptionError` for whatever the user set in a call and we do not use."""
    refuse_settings(inputs.config, {})
    plain = _inputs_of_plain_call(model, input_ids, inputs)
    for name, value in vars(inputs.config).items():
        known = name.startswith("_") or name in (*_USED, *_NEUTRAL_AT_ONE, *_NEUTRAL_WHEN_FALSE)
        if known or value is None or same(value, getattr(plain.config, name, None)):
            continue
        raise _unsupported(name, value)
    unmatched = list(plain.functions)
    for function in inputs.functions:
        match = next((i for i, other in enumerate(unmatched) if same(function, other)), None)
        if match is None:
            raise _unsupported(type(function).__name__)
        unmatched.pop(match)
    for name, value in inputs.arguments.items():
        if name == "attention_mask" or value is None or _is_single_text(name, value):
            continue
        if name not in plain.arguments or not same(value, plain.arguments[name]):
            raise _unsupported(name)


def refuse_settings(config: Any, options: Mapping[str, Any]) -> None:
    """Raise `OptionError` for known settings of a generation config, or of `options` in its place,
    that are not neutral.
    """
    for name in (*_NEUTRAL_AT_ONE, *_NEUTRAL_WHEN_FALSE):
        value = options.get(name, getattr(config, name, None))
        neutral = value == 1 if name in _NEUTRAL_AT_ONE else not value
        if value is not None and not neutral:
            raise _unsupported(name, value)


def refuse_lost_arguments(options: Mapping[str, Any]) -> None:
    """Raise `OptionError` for named arguments of `generate` that reach no custom function, such as
    `assistant_model`.
    """
    for name in inspect.signature(GenerationMixin.generate).parameters:
        value = options.get(name)
        if name not in _REACHING and value is not None and value is not False:
            raise _unsupported(name)


def callers_arguments() -> dict[str, Any]:
    """The named arguments of the `generate` that called our caller; empty where something else did.

    transformers (5.0 to 5.24) passes `streamer` to no custom function and offers no other way to
    get it. Unread it would be lost, and its reader would wait forever.
    """
    frame = inspect.currentframe()
    for _ in range(2):
        frame = None if frame is None else frame.f_back
    if frame is None or frame.f_code is not inspect.unwrap(GenerationMixin.generate).__code__:
        return {}
    names = inspect.signature(GenerationMixin.generate).parameters
    return {name: frame.f_locals[name] for name in names if name in frame.f_locals}


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal: tensors and containers by content, other objects by type and
    attributes. Objects without attributes or `__eq__` are equal to all of their type.
    """
    return _same(one, other, set())


def _same(one: Any, other: Any, compared: set[tuple[int, int]]) -> bool:
    """`compared` holds the pairs under comparison, so that cycles end."""
    if one is other or (id(one), id(other)) in compared:
        return True
    if type(one) is not type(other):
        return False
    compared.add((id(one), id(other)))
    if isinstance(one, Tensor):
        return _same_tensor(one, other)
    if isinstance(one, Mapping):
        if one.keys() != other.keys():
            return False
        return all(_same(one[key], other[key], compared) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other, itertools.repeat(compared)))
    if isinstance(one, types.FunctionType):
        return one.__code__ is other.__code__
    if hasattr(one, "__dict__"):
        return _same(vars(one), vars(other), compared)
    has_eq = any("__eq__" in vars(kind) for kind in type(one).__mro__[:-1])
    return not has_eq or bool(one == other)


def _same_tensor(one: Tensor, other: Tensor) -> bool:
    comparable = one.dtype == other.dtype and one.device == other.device
    return comparable and one.shape == other.shape and torch.equal(one, other)


def _inputs_of_plain_call(model: Any, input_ids: Tensor, inputs: FunctionInputs) -> FunctionInputs:
    """What a custom function gets in the same call with only the settings that we use."""
    if not isinstance(model, GenerationMixin):
        return FunctionInputs(getattr(model, "generation_config", None) or HFGenerationConfig())
    recorded: list[FunctionInputs] = []

    def record(
        model: Any,
        input_ids: Tensor,
        logits_processor: Iterable[Any] = (),
        stopping_criteria: Iterable[Any] = (),
        generation_config: Any = None,
        **others: Any,
    ) -> Tensor:
        functions = [*logits_processor, *stopping_criteria]
        recorded.append(FunctionInputs(generation_config, functions, others))
        return input_ids

    options: dict[str, Any] = {}
    if "attention_mask" in inputs.arguments:  # transformers leaves out one that hides nothing
        mask = inputs.arguments["attention_mask"]
        options["attention_mask"] = torch.ones_like(input_ids) if mask is None else mask
    hf_generate: Callable[..., Any] = GenerationMixin.generate
    config = _used_settings(inputs.config)
    hf_generate(model, input_ids, generation_config=config, custom_generate=record, **options)
    return recorded[0]


def _used_settings(config: Any) -> HFGenerationConfig:
    """A new generation config with only the settings that we use; of two lengths only
    max_new_tokens.
    """
    names: Sequence[str] = (*_ENDS, *_HARMLESS, *_LENGTHS)
    if getattr(config, "do_sample", None):
        names = (*names, *_SAMPLING, "do_sample")
    settings = {name: getattr(config, name, None) for name in names}
    if settings["max_new_tokens"] is not None:
        settings["max_length"] = None
    if settings["pad_token_id"] is None:  # else transformers warns of what it uses instead
        ends = settings["eos_token_id"]
        settings["pad_token_id"] = ends[0] if isinstance(ends, list) and ends else ends
    return HFGenerationConfig(**{k: v for k, v in settings.items() if v is not None})


def _is_single_text(name: str, value: Any) -> bool:
    """Whether these are the `token_type_ids` of a single text, which say nothing."""
    return name == "token_type_ids" and isinstance(value, Tensor) and not bool(value.any())


def _unsupported(name: str, value: Any = None) -> OptionError:
    return OptionError(
        f"{name} is not supported for a masked model",
        given=value,
        hint="Leave it out; docs/guide/your-model.md lists the settings that are used.",
    )
