"""One call of transformers' `generate`: what its user set, told apart from what transformers adds
unasked.

Releases hand more and more to custom functions by themselves (5.24 a `cache`), so their names are
not listed here. The same call is
made once more with nothing but the settings that we keep to, and a function that only notes what it
is given. What arrives there,
equal in value, came unasked; what does not, the user set.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig as Asked
from transformers import GenerationMixin

from creditdecoding.errors import OptionError

_LENGTHS = ("max_new_tokens", "max_length")
_DRAWS = ("temperature", "top_k", "top_p")
_ENDS = ("eos_token_id", "pad_token_id")
_HARMLESS = ("use_cache", "bos_token_id", "transformers_version")  # change nothing about an answer
_KEPT = (
    *_LENGTHS,
    *_DRAWS,
    *_ENDS,
    *_HARMLESS,
    "do_sample",
    "num_return_sequences",
    "return_dict_in_generate",
    "mask_token_id",
)
_OFF_AT_ONE = (
    "num_beams",
    "num_beam_groups",
    "typical_p",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "guidance_scale",
)
_OFF_AT_ZERO = (
    *("min_new_tokens", "min_length", "max_time", "stop_strings", "use_mtp", "min_p", "top_h"),
    *("epsilon_cutoff", "eta_cutoff", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "renormalize_logits", "forced_bos_token_id", "forced_eos_token_id"),
    *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens"),
    *("begin_suppress_tokens", "sequence_bias", "token_healing", "watermarking_config"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("penalty_alpha", "dola_layers", "constraints", "force_words_ids"),
    *("prompt_lookup_num_tokens", "diversity_penalty"),
)
_PASSED_ON = (
    *("self", "inputs", "generation_config", "logits_processor", "stopping_criteria"),
    *("prefix_allowed_tokens_fn", "streamer", "custom_generate", "kwargs"),
)
"""Named arguments of `generate` that reach a function, and the streamer, which is looked for."""


@dataclass
class Handed:
    """What a function is handed: the generation config, processors and criteria, everything else."""

    config: Any
    functions: list[Any] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)


def refuse_set(model: Any, input_ids: Tensor, handed: Handed) -> None:
    """Raises `OptionError` for whatever the user set in a call and we do not keep to."""
    refuse_known(handed.config, {})
    unasked = _unasked(model, input_ids, handed)
    for name, value in vars(handed.config).items():
        known = name.startswith("_") or name in (*_KEPT, *_OFF_AT_ONE, *_OFF_AT_ZERO)
        if known or value is None or same(value, getattr(unasked.config, name, None)):
            continue
        raise _unsupported(name, value)
    own = list(unasked.functions)
    for function in handed.functions:
        match = next((i for i, other in enumerate(own) if same(function, other)), None)
        if match is None:
            raise _unsupported(type(function).__name__)
        own.pop(match)
    for name, value in handed.arguments.items():
        if name == "attention_mask" or value is None or _one_text(name, value):
            continue
        if name not in unasked.arguments or not same(value, unasked.arguments[name]):
            raise _unsupported(name)


def refuse_known(config: Any, options: Mapping[str, Any]) -> None:
    """The same for the known settings of a generation config, or of `options` laid over it, unless
    they are at rest.
    """
    for name in (*_OFF_AT_ONE, *_OFF_AT_ZERO):
        value = options.get(name, getattr(config, name, None))
        at_rest = value == 1 if name in _OFF_AT_ONE else not value
        if value is not None and not at_rest:
            raise _unsupported(name, value)


def refuse_lost(options: Mapping[str, Any]) -> None:
    """The same for named arguments of `generate` that it hands to no function, such as
    `assistant_model`.
    """
    for name in inspect.signature(GenerationMixin.generate).parameters:
        value = options.get(name)
        if name not in _PASSED_ON and value is not None and value is not False:
            raise _unsupported(name)


def callers_arguments() -> dict[str, Any]:
    """The named arguments of the `generate` that called our caller; empty where something else did.

    transformers (5.0 to 5.24) hands a function neither its `streamer` nor says that it leaves it
    out, and has no other place where
    one could ask. Unread, a streamer would be lost, and who waits for its text would wait for ever.
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
    attributes.

    Objects that show nothing of themselves are equal to all of their type.
    """
    return _same(one, other, set())


def _same(one: Any, other: Any, under_way: set[tuple[int, int]]) -> bool:
    if one is other or (id(one), id(other)) in under_way:
        return True
    if type(one) is not type(other):
        return False
    under_way.add((id(one), id(other)))
    if isinstance(one, Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
        return alike and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(
            _same(one[key], other[key], under_way) for key in one
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(lambda a, b: _same(a, b, under_way), one, other))
    if isinstance(one, types.FunctionType):
        return one.__code__ is other.__code__
    if hasattr(one, "__dict__"):
        return _same(vars(one), vars(other), under_way)
    shows_nothing = "__eq__" not in {name for kind in type(one).__mro__[:-1] for name in vars(kind)}
    return shows_nothing or bool(one == other)


def _unasked(model: Any, input_ids: Tensor, handed: Handed) -> Handed:
    """What a function is handed in the same call with nothing but the settings that we keep to."""
    if not isinstance(model, GenerationMixin):
        return Handed(getattr(model, "generation_config", None) or Asked())
    arrived: list[Handed] = []

    def note(
        model: Any,
        input_ids: Tensor,
        logits_processor: Iterable[Any] = (),
        stopping_criteria: Iterable[Any] = (),
        generation_config: Any = None,
        **others: Any,
    ) -> Tensor:
        arrived.append(Handed(generation_config, [*logits_processor, *stopping_criteria], others))
        return input_ids

    options: dict[str, Any] = {}
    if "attention_mask" in handed.arguments:  # transformers leaves out one that hides nothing
        mask = handed.arguments["attention_mask"]
        options["attention_mask"] = torch.ones_like(input_ids) if mask is None else mask
    ask: Callable[..., Any] = GenerationMixin.generate
    ask(model, input_ids, generation_config=_kept(handed.config), custom_generate=note, **options)
    return arrived[0]


def _kept(config: Any) -> Asked:
    """The settings of a generation config that we keep to, in a new one; the longer of two names
    for a length is left out.
    """
    names: Sequence[str] = (*_ENDS, *_HARMLESS, *_LENGTHS)
    if getattr(config, "do_sample", None):
        names = (*names, *_DRAWS, "do_sample")
    found = {name: getattr(config, name, None) for name in names}
    if found["max_new_tokens"] is not None:
        found["max_length"] = None
    if found["pad_token_id"] is None:  # else transformers warns of what it takes in its place
        ends = found["eos_token_id"]
        found["pad_token_id"] = ends[0] if isinstance(ends, list) and ends else ends
    return Asked(**{name: value for name, value in found.items() if value is not None})


def _one_text(name: str, value: Any) -> bool:
    """Whether these are the `token_type_ids` that tokenizers make of a single text, which say
    nothing.
    """
    return name == "token_type_ids" and isinstance(value, Tensor) and not bool(value.any())


def _unsupported(name: str, value: Any = None) -> OptionError:
    hint = "Leave it out; what is kept to is listed in docs/your-model.md."
    return OptionError(f"{name} is not supported for a masked model", given=value, hint=hint)
