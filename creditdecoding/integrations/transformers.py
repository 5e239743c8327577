"""transformers' `generate` for masked diffusion models, with its configs, outputs and streamers.

    model.generate(ids, custom_generate=custom_generate, max_new_tokens=64, decoder="credit",
                   mask_token_id=5, streamer=streamer)
    generate(ids, model=model, max_new_tokens=64)  # also for classes without `generate`

The folder integrations/hub is the same for a model's repository.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig as HFGenerationConfig
from transformers import GenerationMixin
from transformers.utils import ModelOutput

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import Request, sample_seed
from creditdecoding.decoding.streaming import IncrementalDetokenizer
from creditdecoding.errors import ModelError, OptionError
from creditdecoding.integrations.external_model import wrap
from creditdecoding.integrations.llada_generate import unpadded_prompts
from creditdecoding.integrations.transformers_call import (
    FunctionInputs,
    callers_arguments,
    refuse_lost_arguments,
    refuse_settings,
    refuse_user_settings,
)
from creditdecoding.lm import LM
from creditdecoding.models.transformer import Transformer
from creditdecoding.trace import StepEvent, Trace
from creditdecoding.wording import count

DEFAULT_LENGTH = 128


@dataclass
class CreditOutput(ModelOutput):
    """The output with `return_dict_in_generate`: ids [rows, length], forward passes of each row
    [rows], and the traces.
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
    refuse_settings(generation_config, options)
    refuse_lost_arguments(options)
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(model, GenerationMixin):
        return GenerationMixin.generate(
            model,
            inputs,
            generation_config=generation_config,
            streamer=streamer,
            custom_generate=functools.partial(custom_generate, streamer=streamer),
            **options,
        )
    ids = options.pop("input_ids", inputs)
    config = copy.deepcopy(_generation_config(model, generation_config))
    options = config.update(**options)
    refuse_settings(config, {})
    count = getattr(config, "num_return_sequences", None) or 1
    ids = _repeat_rows(ids, count)
    options = {name: _repeat_rows(value, count) for name, value in options.items()}
    if streamer is not None and isinstance(ids, Tensor):
        streamer.put(ids.cpu())
    return custom_generate(model, ids, generation_config=config, streamer=streamer, **options)


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
    """The function for `model.generate(..., custom_generate=...)`: ids [rows, length], padded on
    the left, to ids with the answers.

    Of the generation config it uses max_new_tokens or max_length, do_sample with temperature, top_k
    and top_p, eos_token_id, pad_token_id, num_return_sequences and return_dict_in_generate, and
    refuses every other setting. `streamer` gets final ids, in order; one with `put_draft` also gets
    what the model predicts for the rest of the block. Draws follow `seed`, by default torch's
    generator. `others` may hold an `attention_mask` [rows, length], 0 on padding. The remaining
    arguments are those of `GenerationConfig` and `wrap`. Raises `CreditError`s.
    """
    caller = callers_arguments()
    streamer = caller.get("streamer") if streamer is None else streamer
    try:
        hf_config = _generation_config(model, generation_config)
        prompts = unpadded_prompts(input_ids, others.get("attention_mask"))
        refuse_lost_arguments(caller)
        functions = [*(logits_processor or ()), *(stopping_criteria or ())]
        refuse_user_settings(model, input_ids, FunctionInputs(hf_config, functions, others))
        lm = wrap(
            model,
            batch_size=len(input_ids),
            mask_token_id=_given(mask_token_id, hf_config, "mask_token_id"),
            logit_shift=logit_shift,
            causal_block=causal_block,
            mask_kind=mask_kind,
        )
        stop_ids = _stop_ids(hf_config, lm)
        known_stops = tuple(i for i in stop_ids if i < lm.vocab.size)
        lm.vocab = replace(lm.vocab, stop_ids=known_stops)
        config = replace(
            _our_config(hf_config, input_ids.shape[1]),
            decoder=decoder,
            block_length=block_length,
            cfg_scale=float(cfg_scale),
        )
        requests = _new_requests(lm, prompts, config, seed)
        traces = _decode(lm, requests, streamer)
    finally:
        if streamer is not None:  # else its reader would wait forever
            streamer.end()
    answers = list(map(_answer_ids, requests, traces))
    padding = [*_id_tuple(getattr(hf_config, "pad_token_id", None)), *stop_ids, 0]
    sequences = _append(input_ids, answers, padding[0])
    if not getattr(hf_config, "return_dict_in_generate", False):
        return sequences
    nfe = torch.tensor([trace.nfe for trace in traces])
    return CreditOutput(sequences=sequences, nfe=nfe, traces=tuple(traces))


def _given(value: Any, config: Any, name: str) -> Any:
    """An argument, by default the setting of this name."""
    return getattr(config, name, None) if value is None else value


def _generation_config(model: Any, config: Any) -> Any:
    return config or getattr(model, "generation_config", None) or HFGenerationConfig()


def _repeat_rows(value: Any, count: int) -> Any:
    """A tensor with every row `count` times, as transformers does for `num_return_sequences`."""
    has_rows = isinstance(value, Tensor) and value.dim() > 0
    return value.repeat_interleave(count, dim=0) if has_rows else value


def _id_tuple(ids: Any) -> tuple[int, ...]:
    """One id, several, or none, as transformers writes them."""
    if ids is None:
        return ()
    if isinstance(ids, Tensor):
        ids = ids.flatten().tolist()
    return tuple(map(int, ids)) if isinstance(ids, (list, tuple, set)) else (int(ids),)


def _stop_ids(config: Any, lm: LM) -> tuple[int, ...]:
    """End tokens of the generation config; a network of this package has them in its own config."""
    stop_ids = _id_tuple(getattr(config, "eos_token_id", None))
    if not stop_ids and isinstance(lm.model, Transformer):
        return lm.vocab.stop_ids
    return stop_ids


def _our_config(config: Any, prompt_length: int) -> GenerationConfig:
    """Length and sampling of a generation config; `prompt_length` counts padding too."""
    length = getattr(config, "max_new_tokens", None)
    max_length = getattr(config, "max_length", None)
    if length is None:
        length = DEFAULT_LENGTH if max_length is None else max_length - prompt_length
    if length < 1:
        tokens = count(prompt_length, "token")
        what = f"max_length leaves no room for an answer after a prompt of {tokens}"
        raise OptionError(what, given=max_length, hint="Raise it, or give max_new_tokens.")
    if not getattr(config, "do_sample", False):
        return GenerationConfig(gen_length=length)
    temperature = getattr(config, "temperature", None)
    top_p = getattr(config, "top_p", None)
    return GenerationConfig(
        gen_length=length,
        temperature=1.0 if temperature is None else float(temperature),
        top_k=getattr(config, "top_k", None) or None,
        top_p=None if top_p is None or top_p == 1 else float(top_p),
    )


def _new_requests(
    lm: LM, prompts: Sequence[list[int]], config: GenerationConfig, seed: int | None
) -> list[Request]:
    """A request for each prompt; prompt i draws with `sample_seed(seed, i)`."""
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    return [
        lm.new_request(ids, replace(config, seed=sample_seed(seed, i)), i)
        for i, ids in enumerate(prompts)
    ]


def _decode(lm: LM, requests: list[Request], streamer: Any) -> list[Trace]:
    """The traces of the requests; the streamer gets final ids as they come."""
    if streamer is not None and len(requests) != 1:
        raise OptionError(
            "a streamer shows one answer",
            given=f"{len(requests)} rows",
            hint="Leave the streamer out, or generate one row at a time.",
        )
    traces = [lm.new_trace(request) for request in requests]
    feed = None if streamer is None else _StreamerFeed(streamer, lm, requests[0], traces[0])
    for event in lm.events(requests):
        traces[event.row].add(event)
        if feed is not None:
            feed.add(event)
    return traces


class _StreamerFeed:
    """Passes final ids of one request to a streamer, and drafts to one that takes them."""

    def __init__(self, streamer: Any, lm: LM, request: Request, trace: Trace) -> None:
        self._streamer = streamer
        self._request = request
        self._trace = trace
        self._detokenizer = IncrementalDetokenizer(request, lm.vocab)
        self._sent = 0
        # A streamer that takes logits has a `put_draft` of another meaning.
        takes_logits = getattr(streamer, "_takes_logits", False)
        self._takes_drafts = hasattr(streamer, "put_draft") and not takes_logits

    def add(self, event: Any) -> None:
        """Send what an event made final; the trace has the event already."""
        self._detokenizer.add(event)
        is_step = isinstance(event, StepEvent)
        ids = self._detokenizer.ids if is_step else _answer_ids(self._request, self._trace)
        if len(ids) > self._sent:
            self._streamer.put(torch.tensor(ids[self._sent :]))
            self._sent = len(ids)
        if self._takes_drafts and is_step:
            self._send_draft(event)

    def _send_draft(self, event: StepEvent) -> None:
        draft = {**self._trace.written, **dict(zip(event.positions, event.tokens))}
        start = self._request.answer_start + self._sent
        end = self._request.blocks[event.block][1]
        rest = [draft[i] for i in range(start, end) if i in draft]
        if rest:
            self._streamer.put_draft(torch.tensor(rest))


def _answer_ids(request: Request, trace: Trace) -> list[int]:
    """The ids of a finished answer, with its end token if it has one."""
    if trace.finish is None:
        raise ModelError("the model's answer did not end", hint="Check the model.")
    ids = list(trace.finish.tokens)
    if trace.finish.reason == "stop":
        ids.append(trace.written[request.answer_start + len(ids)])
    return ids


def _append(input_ids: Tensor, answers: Sequence[list[int]], padding: int) -> Tensor:
    """Prompts and answers, [rows, length]; shorter answers are padded on the right."""
    longest = max(map(len, answers))
    rows = [[*answer, *[padding] * (longest - len(answer))] for answer in answers]
    filled = torch.tensor(rows, dtype=input_ids.dtype)
    return torch.cat((input_ids, filled.to(input_ids.device)), dim=1)
