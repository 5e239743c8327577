"""transformers' `generate` for masked diffusion models: our decoders as its custom generation, with its configs, outputs and streamers.

    model.generate(ids, custom_generate=custom_generate, max_new_tokens=64, decoder="credit", mask_token_id=5, streamer=streamer)
    generate(ids, model=model, max_new_tokens=64)            # the same, also for classes without a generate of their own

The folder hub/ beside this file is the same for a model's repository. Leaves to others: what a network wants to be asked (foreign.py), the
loop (generate.py), rules (decoders/).
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig as Asked
from transformers import GenerationMixin
from transformers.generation import EosTokenCriteria, MaxLengthCriteria, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.utils import ModelOutput

from creditdecoding.canvas import Row, start_row
from creditdecoding.compat import check_ids, check_shapes
from creditdecoding.config import GenerationConfig
from creditdecoding.errors import ModelError, OptionError
from creditdecoding.foreign import bring
from creditdecoding.lm import LM
from creditdecoding.reading import Reading
from creditdecoding.trace import StepEvent, Trace

_OFF_AT_ONE = ("num_beams", "num_beam_groups", "typical_p", "repetition_penalty", "encoder_repetition_penalty", "guidance_scale")
_OFF_AT_ZERO = (
    *("min_new_tokens", "min_length", "max_time", "stop_strings", "use_mtp", "min_p", "top_h", "epsilon_cutoff", "eta_cutoff"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "renormalize_logits", "forced_bos_token_id"),
    *("forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
    *("sequence_bias", "token_healing", "watermarking_config", "output_attentions", "output_hidden_states", "output_scores"),
    *("output_logits", "penalty_alpha", "dola_layers", "constraints", "force_words_ids", "prompt_lookup_num_tokens", "diversity_penalty"),
)
_KNOWN = (
    "attention_mask",
    "position_ids",
    "use_cache",
    "logits_to_keep",
    "past_key_values",
    "cache_position",
    "return_dict",
)  # what generate makes by itself
_LENGTH = 128


@dataclass
class CreditOutput(ModelOutput):
    """What `return_dict_in_generate` gives: ids [rows, length], forward passes of each row [rows], and the traces behind them."""

    sequences: Tensor | None = None
    nfe: Tensor | None = None
    traces: tuple[Trace, ...] | None = None


def generate(inputs: Tensor | None = None, *, model: Any, streamer: Any = None, generation_config: Any = None, **options: Any) -> Any:
    """transformers' `generate` with our decoding: its arguments, and those of `custom_generate`. Raises `CreditError`s."""
    _refuse(generation_config, options)
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(model, GenerationMixin):
        decode = functools.partial(custom_generate, streamer=streamer)
        more = {"generation_config": generation_config, "streamer": streamer, "custom_generate": decode}
        return GenerationMixin.generate(model, inputs, **more, **given)
    ids = given.pop("input_ids", inputs)
    asked = copy.deepcopy(generation_config or getattr(model, "generation_config", None) or Asked())
    given = asked.update(**given)
    _refuse(asked, {})
    if streamer is not None and isinstance(ids, Tensor):
        streamer.put(ids.cpu())
    return custom_generate(model, ids, generation_config=asked, streamer=streamer, **given)


def custom_generate(
    model: Any,
    input_ids: Tensor,
    logits_processor: Iterable[Any] | None = None,
    stopping_criteria: Iterable[Any] | None = None,
    generation_config: Any = None,
    synced_gpus: bool = False,
    streamer: Any = None,
    *,
    decoder: Any = "credit",
    block_length: int | None = None,
    cfg_scale: float = 0.0,
    mask_token_id: int | None = None,
    logit_shift: bool | None = None,
    causal_block: int | None = None,
    attention: str = "auto",
    seed: int | None = None,
    **others: Any,
) -> Tensor | CreditOutput:
    """What `model.generate(..., custom_generate=...)` calls: ids [rows, length], padded on the left -> ids with the answers.

    Of the generation config it keeps to max_new_tokens or max_length, do_sample with temperature, top_k and top_p, eos_token_id, pad_token_id,
    num_return_sequences and return_dict_in_generate, and refuses every other that is set. `streamer` gets ids that no later step can
    change, in order; one with `put_draft` also what the model thinks of the rest of the block. Draws follow `seed`, by default torch's
    generator. `others` may hold an `attention_mask` [rows, length], 0 on padding; what remains are arguments of
    `GenerationConfig` and `bring`. Raises `CreditError`s.
    """
    streamer = _callers_streamer() if streamer is None else streamer
    try:
        asked = generation_config or getattr(model, "generation_config", None) or Asked()
        _refuse(asked, others)
        _refuse_more([*(logits_processor or ()), *(stopping_criteria or ())], others)
        check_shapes(input_ids, others.get("attention_mask"))
        ends = _ids(getattr(asked, "eos_token_id", None))
        mask = mask_token_id if mask_token_id is not None else getattr(asked, "mask_token_id", None)
        facts: dict[str, Any] = {"mask_token_id": mask, "logit_shift": logit_shift, "causal_block": causal_block, "attention": attention}
        lm = bring(model, None, batch_size=len(input_ids), **facts)
        inside = tuple(i for i in ends if i < lm.words.size)  # a config's default may lie outside
        lm.words = replace(lm.words, stop_ids=inside, decode=lambda ids: "")
        config = _config(asked, input_ids.shape[1], decoder, block_length, cfg_scale)
        rows = _rows(lm, input_ids, others.get("attention_mask"), config, int(torch.randint(2**62, ())) if seed is None else seed)
        traces = _decoded(lm, rows, streamer)
    finally:
        if streamer is not None:  # whoever reads from it must not wait for ever
            streamer.end()
    answers = [_answer(row, trace) for row, trace in zip(rows, traces)]
    pad = next(iter([*_ids(getattr(asked, "pad_token_id", None)), *ends]), 0)
    longest = max(map(len, answers))
    filled = torch.tensor([[*answer, *[pad] * (longest - len(answer))] for answer in answers], dtype=input_ids.dtype)
    sequences = torch.cat((input_ids, filled.to(input_ids.device)), dim=1)
    if not getattr(asked, "return_dict_in_generate", False):
        return sequences
    return CreditOutput(sequences=sequences, nfe=torch.tensor([trace.nfe for trace in traces]), traces=tuple(traces))


def _callers_streamer() -> Any:
    """The streamer that `GenerationMixin.generate` was given: of all its arguments the one that it does not hand to a function."""
    frame = sys._getframe(2)
    return frame.f_locals.get("streamer") if frame.f_code.co_name == "generate" and "custom_generate" in frame.f_locals else None


def _refuse(asked: Any, options: Mapping[str, Any]) -> None:
    """Raises `OptionError` for a setting that is not kept to, in a generation config or among `options` laid over it."""
    for name in (*_OFF_AT_ONE, *_OFF_AT_ZERO):
        value = options.get(name, getattr(asked, name, None))
        if value is not None and (value != 1 if name in _OFF_AT_ONE else bool(value)):
            hint = "Use decoder, block_length and cfg_scale, or LM.generate with stop=..., instead."
            raise OptionError(f"{name} is not supported for a masked model", given=value, hint=hint)


def _refuse_more(functions: Sequence[Any], others: Mapping[str, Any]) -> None:
    """The same for processors and criteria beyond those that the config's own settings make, and for arguments of the network."""
    for each in functions:
        if not isinstance(each, (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MaxLengthCriteria, EosTokenCriteria)):
            raise OptionError(f"{type(each).__name__} is not supported for a masked model", hint="Leave it out.")
    for name, value in others.items():
        zeros = isinstance(value, Tensor) and name == "token_type_ids" and not bool(value.any())  # what tokenizers make of one text
        if value is not None and name not in _KNOWN and not zeros:
            raise OptionError(f"{name} is not supported for a masked model", hint="Leave it out.")


def _ids(given: Any) -> tuple[int, ...]:
    """One id, several, or none, as transformers writes them."""
    if given is None:
        return ()
    found = given.flatten().tolist() if isinstance(given, Tensor) else given
    return tuple(int(i) for i in found) if isinstance(found, (list, tuple, set)) else (int(found),)


def _config(asked: Any, given: int, decoder: Any, block_length: int | None, cfg_scale: float) -> GenerationConfig:
    """A generation config of transformers as ours; `given` is the length of the prompts with their padding."""
    length, longest = getattr(asked, "max_new_tokens", None), getattr(asked, "max_length", None)
    draws = bool(getattr(asked, "do_sample", False))
    temperature, top_k, top_p = (getattr(asked, name, None) if draws else None for name in ("temperature", "top_k", "top_p"))
    return GenerationConfig(
        decoder=decoder,
        gen_length=length if length is not None else _LENGTH if longest is None else longest - given,
        block_length=block_length,
        cfg_scale=float(cfg_scale),
        temperature=float(1.0 if temperature is None else temperature) if draws else 0.0,
        top_k=top_k or None,
        top_p=None if top_p is None or top_p == 1 else float(top_p),
    )


def _rows(lm: LM, ids: Tensor, attention_mask: Tensor | None, config: GenerationConfig, seed: int) -> list[Row]:
    """The prompts without their padding, each with a seed of its own."""
    kept = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    check_ids(ids[kept], lm)
    prompts = [line[here].tolist() for line, here in zip(ids.cpu(), kept.cpu())]
    return [start_row(i, prompt, replace(config, seed=(seed + i) % 2**62), lm.words, lm.max_length, lm.layout) for i, prompt in enumerate(prompts)]


def _decoded(lm: LM, rows: list[Row], streamer: Any) -> list[Trace]:
    """The rows' traces; the streamer is shown what is settled as it comes."""
    if streamer is not None and len(rows) != 1:
        raise OptionError("a streamer shows one answer", given=f"{len(rows)} rows", hint="Leave the streamer out, or ask one at a time.")
    traces, sent = [lm.trace_of(row) for row in rows], 0
    reading = Reading(rows[0], lm.words)
    for event in lm.events(rows):
        row, trace = rows[event.row], traces[event.row]
        trace.add(event)
        if streamer is None:
            continue
        reading.add(event)
        ids = reading.ids if isinstance(event, StepEvent) else _answer(row, trace)
        if len(ids) > sent:
            streamer.put(torch.tensor(ids[sent:]))
            sent = len(ids)
        if isinstance(event, StepEvent) and hasattr(streamer, "put_draft") and not getattr(streamer, "_takes_logits", False):
            draft = {**trace.written, **dict(zip(event.positions, event.tokens))}
            rest = [draft[at] for at in range(row.answer + sent, row.spans[event.block][1]) if at in draft]
            if rest:
                streamer.put_draft(torch.tensor(rest))
    return traces


def _answer(row: Row, trace: Trace) -> list[int]:
    """The ids of a finished row, with its end token where it has one."""
    if trace.finish is None:
        raise ModelError("the model's answer did not end", hint="Check the model.")
    ids = list(trace.finish.tokens)
    return [*ids, trace.written[row.answer + len(ids)]] if trace.finish.reason == "stop" else ids
