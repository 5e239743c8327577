"""LLaDA's and Fast-dLLM's `generate` by their argument names, on this package's loop: ids in, ids
out, any network.

    ids = generate(model, prompt, steps=128, gen_length=128, block_length=32)
    ids, nfe = generate_fast(model, prompt, gen_length=128, block_length=32, threshold=0.9)

`model` is an `LM`, our `Transformer`, or any callable from ids [rows, length] to logits [rows,
length, vocab] (or to an object that has
them as `.logits`). Differences from the originals are listed in docs/compat.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import create
from creditdecoding.decoders.base import Decoder
from creditdecoding.decoding.forward import Denoiser
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import Request, new_request, sample_seed
from creditdecoding.errors import OptionError
from creditdecoding.integrations.external_model import ExternalDenoiser
from creditdecoding.lm import LM
from creditdecoding.models.transformer import Transformer
from creditdecoding.options import check_fields, from_mapping, option
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.trace import StepEvent, Trace, total

BLOCK_LENGTH = 128  # of the originals


@dataclass(frozen=True)
class OriginalArguments:
    """The originals' arguments, with their defaults."""

    steps: int = option(
        128,
        "Passes in all, split evenly over the blocks; without effect beside threshold or factor.",
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
        if self.remasking == "random" and (self.threshold is not None or self.factor is not None):
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

    def rule(self) -> Decoder | None:
        """The decoder, None where it follows the steps."""
        if self.threshold is not None:
            return create("threshold", threshold=self.threshold)
        return create("factor", factor=self.factor) if self.factor is not None else None

    def config(self, seed: int) -> GenerationConfig:
        """The same as options of a request; as in the originals every position is written."""
        return GenerationConfig(
            decoder=self.rule() or "fixed",
            gen_length=self.gen_length,
            cache="auto" if not self.use_cache else "dual" if self.dual_cache else "prefix",
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
    """LLaDA's `generate`: ids [rows, length] -> ids [rows, length + gen_length]. `options` are the
    fields of `Options`.

    `attention_mask` [rows, length] is 0 on left padding. Raises `OptionError`.
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
    asked = from_mapping(OriginalArguments, options)
    check_prompt_shape(prompt, attention_mask)
    lm = wrap(model, asked.mask_id, asked.stop_ids, prompt.device)
    kept = (
        torch.ones_like(prompt, dtype=torch.bool)
        if attention_mask is None
        else attention_mask.bool()
    )
    check_prompt_ids(prompt[kept], lm)
    words = replace(lm.vocab, stop_ids=_ends(asked, lm, isinstance(model, LM)))
    seed = int(torch.randint(2**62, ())) if asked.seed is None else asked.seed
    config = replace(
        asked.config(seed),
        block_length=asked.block_length or lm.geometry.causal_block or BLOCK_LENGTH,
    )
    rows = [
        _scheduled(
            new_request(
                i,
                ids[here].tolist(),
                replace(config, seed=sample_seed(seed, i)),
                words,
                lm.max_length,
                lm.geometry,
            ),
            asked,
        )
        for i, (ids, here) in enumerate(zip(prompt.cpu(), kept.cpu()))
    ]
    traces = [Trace(tuple(row.canvas[: row.answer_start].tolist())) for row in rows]
    for event in denoise(lm.model, rows, words, lm.device, len(rows)):
        if isinstance(event, StepEvent):
            traces[event.row].add(event)
    answers = torch.tensor(
        [
            [trace.written[row.answer_start + i] for i in range(asked.gen_length)]
            for row, trace in zip(rows, traces)
        ]
    )
    return torch.cat((prompt, answers.to(prompt)), dim=1), total(traces).forwards


def _scheduled(row: Request, asked: OriginalArguments) -> Request:
    """The row with the originals' schedule, where no other rule was asked for: `steps` split evenly
    over its blocks.
    """
    if asked.rule() is not None:
        return row
    steps = asked.steps // len(row.blocks)
    if not steps:
        raise OptionError(
            "fewer steps than blocks",
            given=asked.steps,
            allowed=f"at least {len(row.blocks)}",
            hint="Raise steps or block_length.",
        )
    return replace(row, decoder=create("fixed", steps=steps, order=asked.remasking))


def _ends(asked: OriginalArguments, lm: LM, whole: bool) -> tuple[int, ...]:
    """The ids that the end-token option in use is about; `whole`: the model knows all of them."""
    if not (asked.logits_eos_inf or asked.confidence_eos_eot_inf):
        return ()
    found = asked.stop_ids or lm.vocab.stop_ids
    own = getattr(lm.tokenizer.backend, "eos_token_id", None)
    if asked.stop_ids is None and own in found:
        found = (own, *(i for i in found if i != own))
    if not found or (asked.confidence_eos_eot_inf and asked.stop_ids is None and not whole):
        raise OptionError(
            "this option needs the end tokens",
            hint="Give stop_ids=(end of text, end of turn), LLaDA's are (126081, 126348).",
        )
    if max(found) >= lm.vocab.size or min(found) < 0:
        raise OptionError(
            "stop_ids outside the vocabulary",
            given=found,
            allowed=f"0 <= id < {lm.vocab.size}",
            hint="Correct stop_ids.",
        )
    return found[:1] if asked.logits_eos_inf else found


def check_prompt_shape(prompt: Tensor, attention_mask: Tensor | None) -> None:
    """Hold prompts to ids [rows, length] and their mask to padding on the left. Raises
    `OptionError`.
    """
    shape = tuple(prompt.shape) if isinstance(prompt, Tensor) else type(prompt).__name__
    if not isinstance(prompt, Tensor) or prompt.dim() != 2 or prompt.dtype != torch.long:
        raise OptionError(
            "the prompt has the wrong shape",
            given=shape,
            allowed="a LongTensor [rows, length]",
            hint="For one prompt: ids[None].",
        )
    if not prompt.numel():
        raise OptionError(
            "the prompt is empty", given=shape, hint="Give at least one row and one token."
        )
    if attention_mask is None:
        return
    if not isinstance(attention_mask, Tensor) or attention_mask.shape != prompt.shape:
        given = (
            tuple(attention_mask.shape)
            if isinstance(attention_mask, Tensor)
            else type(attention_mask).__name__
        )
        raise OptionError(
            "attention_mask has the wrong shape",
            given=given,
            allowed=f"that of the prompt, {shape}",
            hint="Cut it to the prompt.",
        )
    if bool((attention_mask.bool().long().diff(dim=1) < 0).any()):
        raise OptionError(
            "attention_mask hides tokens behind others",
            allowed="padding on the left",
            hint="Set padding_side='left'.",
        )


def check_prompt_ids(ids: Tensor, lm: LM) -> None:
    """Hold the ids of prompts to the vocabulary without its mask. Raises `OptionError`."""
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < lm.vocab.size:
        raise OptionError(
            "ids outside the vocabulary",
            given=(int(ids.min()), int(ids.max())),
            allowed=f"below {lm.vocab.size}",
            hint="Check them.",
        )
    if bool((ids == lm.vocab.mask_id).any()):
        raise OptionError(
            "the mask token is in the prompt",
            given=lm.vocab.mask_id,
            hint="Fill masks inside a text with LM.infill.",
        )


def wrap(
    model: Any,
    mask_id: int | None = None,
    stop_ids: tuple[int, ...] | None = None,
    device: torch.device | None = None,
) -> LM:
    """An `LM` around any network; without text unless it is one already. Raises `OptionError`.

    The mask and stop ids not given come from the network's config. A callable of ids is run once on
    a single token, to see how many
    ids its logits have.
    """
    if isinstance(model, LM):
        if mask_id is not None and mask_id != model.vocab.mask_id:
            raise OptionError(
                "mask_id is not this model's",
                given=mask_id,
                allowed=model.vocab.mask_id,
                hint="Leave mask_id out.",
            )
        return model
    if not callable(model):
        raise OptionError(
            "not a model",
            given=type(model).__name__,
            allowed="an LM or a callable from ids to logits",
            hint="See docs/compat.md.",
        )
    config = getattr(model, "config", None)
    known = getattr(config, "mask_token_id", None)
    if mask_id is not None and isinstance(model, Transformer) and known not in (None, mask_id):
        raise OptionError(
            "mask_id is not this model's", given=mask_id, allowed=known, hint="Leave mask_id out."
        )
    mask = known if mask_id is None else mask_id
    parameter = next(model.parameters(), None) if isinstance(model, torch.nn.Module) else None
    place = device if parameter is None else parameter.device
    place = torch.device("cpu") if place is None else place
    stops = (
        getattr(config, "stop_token_ids", getattr(config, "eos_token_id", None))
        if stop_ids is None
        else stop_ids
    )
    stops = () if stops is None else (stops,) if isinstance(stops, int) else tuple(stops)
    if mask is None:
        raise OptionError(
            "this model does not say what its mask is", hint="Give mask_id; LLaDA's is 126336."
        )
    net: Denoiser = model if isinstance(model, Transformer) else ExternalDenoiser(model)
    size, longest = (
        (model.config.embedding_rows, model.config.max_length)
        if isinstance(model, Transformer)
        else (0, sys.maxsize)
    )
    if isinstance(net, ExternalDenoiser):
        size = net.logits(torch.zeros(1, 1, dtype=torch.long, device=place)).shape[2]
    if not 0 <= mask < size:
        raise OptionError(
            "mask_id is outside the vocabulary",
            given=mask,
            allowed=f"0 <= mask_id < {size}",
            hint="Correct mask_id.",
        )
    return LM(net, Tokenizer(None, int(mask), stops, size), max_length=longest, device=place)
