"""transformers' `generate` for masked diffusion models: our decoders as its custom generation, with
its configs, outputs and streamers.

    model.generate(ids, custom_generate=custom_generate, max_new_tokens=64, decoder="credit",
    mask_token_id=5, streamer=streamer)
    generate(ids, model=model, max_new_tokens=64)            # the same, also for classes without a
    generate of their own

The folder hub/ beside this file is the same for a model's repository.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig as Asked
from transformers import GenerationMixin
from transformers.utils import ModelOutput

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import Request, new_request
from creditdecoding.decoding.streaming import IncrementalDetokenizer
from creditdecoding.errors import ModelError, OptionError
from creditdecoding.integrations.external_model import wrap
from creditdecoding.integrations.llada_generate import check_prompt_ids, check_prompt_shape
from creditdecoding.integrations.transformers_call import (
    Handed,
    callers_arguments,
    refuse_known,
    refuse_lost,
    refuse_set,
)
from creditdecoding.lm import LM
from creditdecoding.models.transformer import Transformer
from creditdecoding.trace import StepEvent, Trace

_LENGTH = 128


@dataclass
class CreditOutput(ModelOutput):
    """What `return_dict_in_generate` gives: ids [rows, length], forward passes of each row [rows],
    and the traces behind them.
    """

    sequences: Tensor | None = None
    nfe: Tensor | None = None
    traces: tuple[Trace, ...] | None = None


def generate(
    inputs: Tensor | None = None,
    *,
    model: Any,
    streamer: Any = None,
    generation_config: Any = None,
    **options: Any,
) -> Any:
    """transformers' `generate` with our decoding: its arguments, and those of `custom_generate`.
    Raises `CreditError`s.
    """
    refuse_known(generation_config, options)
    refuse_lost(options)
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(model, GenerationMixin):
        decode = functools.partial(custom_generate, streamer=streamer)
        more = {
            "generation_config": generation_config,
            "streamer": streamer,
            "custom_generate": decode,
        }
        return GenerationMixin.generate(model, inputs, **more, **given)
    ids = given.pop("input_ids", inputs)
    asked = copy.deepcopy(generation_config or getattr(model, "generation_config", None) or Asked())
    given = asked.update(**given)
    refuse_known(asked, {})
    ids, given = _several(ids, given, getattr(asked, "num_return_sequences", None) or 1)
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
    mask_kind: str = "auto",
    seed: int | None = None,
    **others: Any,
) -> Tensor | CreditOutput:
    """What `model.generate(..., custom_generate=...)` calls: ids [rows, length], padded on the left
    -> ids with the answers.

    Of the generation config it keeps to max_new_tokens or max_length, do_sample with temperature,
    top_k and top_p, eos_token_id, pad_token_id,
    num_return_sequences and return_dict_in_generate, and refuses every other that is set.
    `streamer` gets ids that no later step can
    change, in order; one with `put_draft` also what the model thinks of the rest of the block.
    Draws follow `seed`, by default torch's
    generator. `others` may hold an `attention_mask` [rows, length], 0 on padding; what remains are
    arguments of
    `GenerationConfig` and `wrap`. Raises `CreditError`s.
    """
    called = callers_arguments()
    streamer = called.get("streamer") if streamer is None else streamer
    try:
        asked = generation_config or getattr(model, "generation_config", None) or Asked()
        check_prompt_shape(input_ids, others.get("attention_mask"))
        refuse_lost(called)
        functions = [*(logits_processor or ()), *(stopping_criteria or ())]
        refuse_set(model, input_ids, Handed(asked, functions, others))
        mask = mask_token_id if mask_token_id is not None else getattr(asked, "mask_token_id", None)
        facts: dict[str, Any] = {
            "mask_token_id": mask,
            "logit_shift": logit_shift,
            "causal_block": causal_block,
            "mask_kind": mask_kind,
        }
        lm = wrap(model, None, batch_size=len(input_ids), **facts)
        ends = _ids(getattr(asked, "eos_token_id", None))
        if not ends and isinstance(model, Transformer):
            ends = lm.vocab.stop_ids  # a network of ours keeps them in its own config
        inside = tuple(i for i in ends if i < lm.vocab.size)  # a config's default may lie outside
        lm.vocab = replace(lm.vocab, stop_ids=inside, decode=lambda ids: "")
        config = _config(asked, input_ids.shape[1], decoder, block_length, cfg_scale)
        rows = _rows(
            lm,
            input_ids,
            others.get("attention_mask"),
            config,
            int(torch.randint(2**62, ())) if seed is None else seed,
        )
        traces = _decoded(lm, rows, streamer)
    finally:
        if streamer is not None:  # whoever reads from it must not wait for ever
            streamer.end()
    answers = [_answer(row, trace) for row, trace in zip(rows, traces)]
    pad = next(iter([*_ids(getattr(asked, "pad_token_id", None)), *ends]), 0)
    longest = max(map(len, answers))
    filled = torch.tensor(
        [[*answer, *[pad] * (longest - len(answer))] for answer in answers], dtype=input_ids.dtype
    )
    sequences = torch.cat((input_ids, filled.to(input_ids.device)), dim=1)
    if not getattr(asked, "return_dict_in_generate", False):
        return sequences
    return CreditOutput(
        sequences=sequences, nfe=torch.tensor([trace.nfe for trace in traces]), traces=tuple(traces)
    )


def _several(ids: Any, given: dict[str, Any], count: int) -> tuple[Any, dict[str, Any]]:
    """The prompts and their mask with every row `count` times, as transformers repeats them for
    `num_return_sequences`.
    """
    repeated = {
        name: value.repeat_interleave(count, dim=0) if isinstance(value, Tensor) else value
        for name, value in given.items()
    }
    return (ids.repeat_interleave(count, dim=0) if isinstance(ids, Tensor) else ids), repeated


def _ids(given: Any) -> tuple[int, ...]:
    """One id, several, or none, as transformers writes them."""
    if given is None:
        return ()
    found = given.flatten().tolist() if isinstance(given, Tensor) else given
    return tuple(int(i) for i in found) if isinstance(found, (list, tuple, set)) else (int(found),)


def _config(
    asked: Any, given: int, decoder: Any, block_length: int | None, cfg_scale: float
) -> GenerationConfig:
    """A generation config of transformers as ours; `given` is the length of the prompts with their
    padding.
    """
    length, longest = getattr(asked, "max_new_tokens", None), getattr(asked, "max_length", None)
    draws = bool(getattr(asked, "do_sample", False))
    temperature, top_k, top_p = (
        getattr(asked, name, None) if draws else None for name in ("temperature", "top_k", "top_p")
    )
    return GenerationConfig(
        decoder=decoder,
        gen_length=length
        if length is not None
        else _LENGTH
        if longest is None
        else longest - given,
        block_length=block_length,
        cfg_scale=float(cfg_scale),
        temperature=float(1.0 if temperature is None else temperature) if draws else 0.0,
        top_k=top_k or None,
        top_p=None if top_p is None or top_p == 1 else float(top_p),
    )


def _rows(
    lm: LM, ids: Tensor, attention_mask: Tensor | None, config: GenerationConfig, seed: int
) -> list[Request]:
    """The prompts without their padding, each with a seed of its own."""
    kept = (
        torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    )
    check_prompt_ids(ids[kept], lm)
    prompts = [line[here].tolist() for line, here in zip(ids.cpu(), kept.cpu())]
    return [
        new_request(
            i,
            prompt,
            replace(config, seed=(seed + i) % 2**62),
            lm.vocab,
            lm.max_length,
            lm.geometry,
        )
        for i, prompt in enumerate(prompts)
    ]


def _decoded(lm: LM, rows: list[Request], streamer: Any) -> list[Trace]:
    """The rows' traces; the streamer is shown what is settled as it comes."""
    if streamer is not None and len(rows) != 1:
        raise OptionError(
            "a streamer shows one answer",
            given=f"{len(rows)} rows",
            hint="Leave the streamer out, or ask one at a time.",
        )
    traces, sent = [lm.new_trace(row) for row in rows], 0
    reading = IncrementalDetokenizer(rows[0], lm.vocab)
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
        if (
            isinstance(event, StepEvent)
            and hasattr(streamer, "put_draft")
            and not getattr(streamer, "_takes_logits", False)
        ):
            draft = {**trace.written, **dict(zip(event.positions, event.tokens))}
            rest = [
                draft[at]
                for at in range(row.answer_start + sent, row.blocks[event.block][1])
                if at in draft
            ]
            if rest:
                streamer.put_draft(torch.tensor(rest))
    return traces


def _answer(row: Request, trace: Trace) -> list[int]:
    """The ids of a finished row, with its end token where it has one."""
    if trace.finish is None:
        raise ModelError("the model's answer did not end", hint="Check the model.")
    ids = list(trace.finish.tokens)
    return (
        [*ids, trace.written[row.answer_start + len(ids)]] if trace.finish.reason == "stop" else ids
    )
