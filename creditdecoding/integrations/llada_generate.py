"""LLaDA's and Fast-dLLM's `generate` by their argument names: ids in, ids out, any network.

    ids = generate(model, prompt, steps=128, gen_length=128, block_length=32)
    ids, nfe = generate_fast(model, prompt, gen_length=128, block_length=32, threshold=0.9)

`model` is an `LM`, a `Transformer` of this package, or a network that `wrap` takes; a network is
probed in every call, so give an `LM` to many. docs/guide/llada-generate.md lists differences from
the originals.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import create
from creditdecoding.decoders.base import Decoder
from creditdecoding.decoding.request import Request, sample_seed
from creditdecoding.errors import OptionError
from creditdecoding.integrations.external_model import wrap
from creditdecoding.lm import LM
from creditdecoding.models.transformer import Transformer
from creditdecoding.options import check_fields, from_mapping, option
from creditdecoding.trace import StepEvent, Trace, total

BLOCK_LENGTH = 128
"""The block length of the originals."""


@dataclass(frozen=True)
class OriginalArguments:
    """The originals' arguments, with their defaults."""

    steps: int = option(
        128,
        "Passes in all, split evenly over the blocks; no effect with threshold or factor.",
        ge=1,
    )
    gen_length: int = option(128, "Masks appended to the prompt.", ge=1)
    block_length: int | None = option(
        None,
        "Positions decoded together; by default 128, or the blocks of a block-causal model.",
        ge=1,
    )
    temperature: float = option(0.0, "0 is greedy.", ge=0.0)
    cfg_scale: float = option(0.0, "Classifier-free guidance.", ge=0.0)
    remasking: str = option(
        "low_confidence", "Which positions a step keeps.", choices=("low_confidence", "random")
    )
    mask_id: int | None = option(
        None, "Id of the mask; by default what the model's config says.", ge=0
    )
    logits_eos_inf: bool = option(False, "Never write the end of text, the first of stop_ids.")
    confidence_eos_eot_inf: bool = option(False, "Write the stop_ids last.")
    stop_ids: tuple[int, ...] | None = option(
        None, "End of text and end of turn; by default what the model's config says."
    )
    control_ids: tuple[int, ...] = option(
        (), "Ids that are never written, besides the mask and what the model's files name."
    )
    threshold: float | None = option(None, "Fast-dLLM: commit all positions that are this sure.")
    factor: float | None = option(None, "Fast-dLLM: its factor rule.")
    use_cache: bool = option(False, "Fast-dLLM's prefix cache.")
    dual_cache: bool = option(False, "With use_cache: Fast-dLLM's dual cache.")
    seed: int | None = option(
        None, "Seed of draws; by default taken from torch's generator.", ge=0, le=2**62
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.threshold is not None and self.factor is not None:
            raise OptionError(
                "threshold and factor exclude each other",
                given=(self.threshold, self.factor),
                allowed="one of them",
                hint="Leave one out.",
            )
        if self.remasking == "random" and self.decoder is not None:
            raise OptionError(
                "threshold and factor need confidences",
                given="remasking='random'",
                allowed="low_confidence",
                hint="Leave one out.",
            )
        if self.logits_eos_inf and self.confidence_eos_eot_inf:
            raise OptionError(
                "logits_eos_inf and confidence_eos_eot_inf exclude each other",
                given="both",
                allowed="one of them",
                hint="Leave one out.",
            )
        if self.dual_cache and not self.use_cache:
            raise OptionError(
                "dual_cache needs use_cache",
                given="use_cache=False",
                hint="Set use_cache=True as well.",
            )

    @property
    def decoder(self) -> Decoder | None:
        """The decoder, None where it follows `steps`."""
        if self.threshold is not None:
            return create("threshold", threshold=self.threshold)
        return None if self.factor is None else create("factor", factor=self.factor)

    @property
    def cache(self) -> str:
        """The cache policy."""
        if not self.use_cache:
            return "auto"
        return "dual" if self.dual_cache else "prefix"

    def config(self, seed: int, block_length: int) -> GenerationConfig:
        """Options of a request. As in the originals every position is written."""
        return GenerationConfig(
            decoder=self.decoder or "fixed",
            gen_length=self.gen_length,
            block_length=block_length,
            cache=self.cache,
            temperature=self.temperature,
            cfg_scale=self.cfg_scale,
            seed=seed,
            early_stop=False,
            logits_eos_inf=self.logits_eos_inf,
            confidence_eos_eot_inf=self.confidence_eos_eot_inf,
        )


def generate(
    model: Any, prompt: Tensor, attention_mask: Tensor | None = None, **options: Any
) -> Tensor:
    """LLaDA's `generate`: ids [rows, length] -> ids [rows, length + gen_length].

    `options` are the fields of `OriginalArguments`. `attention_mask` [rows, length] is 0 on left
    padding. Raises `OptionError`.
    """
    return generate_fast(model, prompt, attention_mask, **options)[0]


def generate_with_prefix_cache(
    model: Any, prompt: Tensor, attention_mask: Tensor | None = None, **options: Any
) -> tuple[Tensor, int]:
    """Fast-dLLM's function of this name."""
    return generate_fast(model, prompt, attention_mask, use_cache=True, **options)


def generate_with_dual_cache(
    model: Any, prompt: Tensor, attention_mask: Tensor | None = None, **options: Any
) -> tuple[Tensor, int]:
    """Fast-dLLM's function of this name."""
    return generate_fast(model, prompt, attention_mask, use_cache=True, dual_cache=True, **options)


def generate_fast(
    model: Any, prompt: Tensor, attention_mask: Tensor | None = None, **options: Any
) -> tuple[Tensor, int]:
    """Fast-dLLM's `generate`: as `generate`, with the number of forward passes of the batch."""
    arguments = from_mapping(OriginalArguments, options)
    prompts = unpadded_prompts(prompt, attention_mask)
    lm = _as_lm(model, arguments, prompt.device)
    stop_ids = _end_token_ids(arguments, lm, knows_all=isinstance(model, LM))
    lm.vocab = replace(
        lm.vocab,
        stop_ids=stop_ids,
        control_ids=(*lm.vocab.control_ids, *arguments.control_ids),
    )
    requests = _new_requests(arguments, lm, prompts)
    traces = [lm.new_trace(request) for request in requests]
    for event in lm.events(requests):
        if isinstance(event, StepEvent):
            traces[event.row].add(event)
    answers = torch.tensor([_answer_ids(*pair) for pair in zip(requests, traces)])
    return torch.cat((prompt, answers.to(prompt)), dim=1), total(traces).forwards


def _new_requests(arguments: OriginalArguments, lm: LM, prompts: list[list[int]]) -> list[Request]:
    seed = arguments.seed
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    block_length = arguments.block_length or lm.geometry.causal_block or BLOCK_LENGTH
    requests = []
    for i, ids in enumerate(prompts):
        config = arguments.config(sample_seed(seed, i), block_length)
        request = lm.new_request(ids, config, i)
        if arguments.decoder is None:
            request = _with_schedule(request, arguments)
        requests.append(request)
    return requests


def _with_schedule(request: Request, arguments: OriginalArguments) -> Request:
    """The request with the originals' schedule: `steps` split evenly over its blocks."""
    steps = arguments.steps // len(request.blocks)
    if not steps:
        raise OptionError(
            "fewer steps than blocks",
            given=arguments.steps,
            allowed=f"at least {len(request.blocks)}",
            hint="Raise steps or block_length.",
        )
    return replace(request, decoder=create("fixed", steps=steps, order=arguments.remasking))


def _answer_ids(request: Request, trace: Trace) -> list[int]:
    return [trace.written[i] for i in range(request.answer_start, request.answer_end)]


def _as_lm(model: Any, arguments: OriginalArguments, device: torch.device) -> LM:
    """A new `LM` around a network, or a copy of one, whose vocabulary may be changed."""
    own_network = isinstance(model, Transformer)
    known = model.config.mask_token_id if own_network else None
    if isinstance(model, LM):
        known = model.vocab.mask_id
    if known is not None and arguments.mask_id not in (None, known):
        raise OptionError(
            "mask_id is not this model's",
            given=arguments.mask_id,
            allowed=known,
            hint="Leave mask_id out.",
        )
    if isinstance(model, LM):
        return copy.copy(model)
    return wrap(
        model,
        mask_token_id=arguments.mask_id,
        mask_kind="auto" if own_network else "none",
        max_length=None if own_network else sys.maxsize,
        device=None if isinstance(model, torch.nn.Module) else device,
    )


def _end_token_ids(arguments: OriginalArguments, lm: LM, knows_all: bool) -> tuple[int, ...]:
    """The ids that the end-token option in use is about, none without an option.

    The end of text comes first. `knows_all`: the model's own stop ids are complete.
    """
    if not (arguments.logits_eos_inf or arguments.confidence_eos_eot_inf):
        return ()
    stop_ids = arguments.stop_ids or lm.vocab.stop_ids
    end_of_text = getattr(lm.tokenizer.backend, "eos_token_id", None)
    if arguments.stop_ids is None and end_of_text in stop_ids:
        stop_ids = (end_of_text, *(i for i in stop_ids if i != end_of_text))
    incomplete = arguments.stop_ids is None and not knows_all
    if not stop_ids or (arguments.confidence_eos_eot_inf and incomplete):
        raise OptionError(
            "this option needs the end tokens",
            hint="Give stop_ids=(end of text, end of turn), LLaDA's are (126081, 126348).",
        )
    if max(stop_ids) >= lm.vocab.size or min(stop_ids) < 0:
        raise OptionError(
            "stop_ids outside the vocabulary",
            given=stop_ids,
            allowed=f"0 <= id < {lm.vocab.size}",
            hint="Correct stop_ids.",
        )
    return stop_ids[:1] if arguments.logits_eos_inf else stop_ids


def unpadded_prompts(prompt: Any, attention_mask: Tensor | None) -> list[list[int]]:
    """The ids of each prompt without its padding.

    `prompt` [rows, length], `attention_mask` [rows, length], 0 on left padding. Raises
    `OptionError` for anything else.
    """
    if not isinstance(prompt, Tensor) or prompt.dim() != 2 or prompt.dtype != torch.long:
        raise OptionError(
            "the prompt has the wrong shape",
            given=_shape(prompt),
            allowed="a LongTensor [rows, length]",
            hint="For one prompt: ids[None].",
        )
    if not prompt.numel():
        raise OptionError(
            "the prompt is empty",
            given=_shape(prompt),
            hint="Give at least one row and one token.",
        )
    if attention_mask is None:
        return prompt.tolist()
    if not isinstance(attention_mask, Tensor) or attention_mask.shape != prompt.shape:
        raise OptionError(
            "attention_mask has the wrong shape",
            given=_shape(attention_mask),
            allowed=f"that of the prompt, {_shape(prompt)}",
            hint="Cut it to the prompt.",
        )
    kept = attention_mask.bool().cpu()
    if bool((kept.long().diff(dim=1) < 0).any()):
        raise OptionError(
            "attention_mask hides tokens after others",
            allowed="padding on the left",
            hint="Set padding_side='left'.",
        )
    return [ids[keep].tolist() for ids, keep in zip(prompt.cpu(), kept)]


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
