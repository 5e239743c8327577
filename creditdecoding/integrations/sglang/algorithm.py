"""Every decoder as a dLLM algorithm of SGLang: `--dllm-algorithm CreditDecoding
--dllm-algorithm-config credit.yaml`.

SGLang owns the model, the scheduler and both loops (`DllmAlgorithm.run`); this is the step between
two forward passes. What a request
carries from step to step is a `Seat`, which SGLang keeps with the request, so it ends with it. The
only file that imports sglang, loaded by
sglang_plugin.py.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Any, ClassVar

import torch
from torch import Tensor

from creditdecoding.decoders import from_settings
from creditdecoding.decoders.base import capabilities_of
from creditdecoding.errors import MissingExtraError, ModelError, OptionError
from creditdecoding.integrations.blocks import (
    SamplingParams,
    advance_blocks,
    check_decoder,
    fail_blocks,
    new_blocks,
    seed_from_name,
)
from creditdecoding.integrations.sglang.plugin import algorithm_decoders
from creditdecoding.models.families import llada2, sdar

try:
    from sglang.srt.arg_groups.overrides import resolving_view
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.dllm.algorithm.base import DllmAlgorithm
    from sglang.srt.dllm.config import DllmConfig
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
except ImportError as error:
    raise MissingExtraError("sglang", "sglang") from error

logger = logging.getLogger(__name__)

REFUSED = -1
"""An id outside every vocabulary: SGLang ends the request that is given one, and no other, as a
request whose model returned NaN.
"""

_PLAIN = {
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_new_tokens": 0,
    "logit_bias": None,
    "json_schema": None,
    "regex": None,
    "ebnf": None,
    "structural_tag": None,
}
"""Sampling parameters that no algorithm here honours, with the value that asks for nothing."""


class CreditAlgorithm(DllmAlgorithm):
    """A decoder in SGLang's terms. Raises `OptionError` at start for knobs, a block size or a rule
    that cannot be served.
    """

    rule: ClassVar[str]
    supported_architectures = (*llada2.ARCHITECTURES, *sdar.ARCHITECTURES)

    def __init__(self, config: DllmConfig) -> None:
        super().__init__(config)
        self.decoder = check_decoder(
            from_settings(config.algorithm_config, self.rule)[0], self.rule
        )

    @classmethod
    def configure_server_args(cls, server_args: Any) -> None:
        """Refuse a bad configuration in the launching process, before any model is loaded."""
        config = DllmConfig.from_server_args(server_args)
        check_decoder(from_settings(config.algorithm_config, cls.rule)[0], cls.rule)
        asked = resolving_view(server_args)
        hf = ModelConfig.from_server_args(
            server_args, model_path=asked.model_path, model_revision=asked.revision
        ).hf_config
        trained = next(
            (
                size
                for name in ("block_size", "bd_size")
                if (size := getattr(hf, name, None)) is not None
            ),
            None,
        )
        if trained is None and hf.architectures[0] in llada2.ARCHITECTURES:
            trained = llada2.BLOCK
        if config.block_size < 1 or (trained is not None and config.block_size != trained):
            hint = "Change block_size in the configuration, or leave it out."
            raise OptionError(
                "the checkpoint does not allow these blocks",
                given=config.block_size,
                allowed=trained or "1 <= block_size",
                hint=hint,
            )

    @classmethod
    def validate_request(cls, req: Any) -> str | None:
        """Why a request cannot be served as asked; SGLang answers it alone with this."""
        asked = [
            name
            for name, plain in _PLAIN.items()
            if (getattr(req.sampling_params, name, plain) or plain) != plain
        ]
        asked += [
            name
            for name in ("return_logprob", "custom_logit_processor")
            if getattr(req, name, None)
        ]
        if asked:
            return f"{', '.join(asked)}: not supported with the algorithms of creditdecoding; leave it out."
        config = getattr(req, "dllm_config", None)
        if (
            not hasattr(DllmAlgorithm, "_prompt_mask")
            and config is not None
            and config.mask_id in req.origin_input_ids
        ):
            return "the prompt holds the model's mask token, which this SGLang cannot tell from a position to write; take it out."
        return None

    def max_steps(self, block_size: int) -> int:
        """A step a position, those in which a rule that edits changes its mind, and the pass that
        sees the last tokens.
        """
        return block_size + capabilities_of(self.decoder).extra_passes + 1

    def init_step_state(self, forward_batch: ForwardBatch) -> list[Any]:
        """A fresh seat for every request. Greedy batches cost no wait; others one, for the settings
        that SGLang keeps on the device.
        """
        tokens = self._blocks(forward_batch)
        given = tokens != self.mask_id
        if getattr(forward_batch, "dllm_prompt_mask", None) is not None:
            given = forward_batch.dllm_prompt_mask
        owners = _owners(forward_batch)
        drawings, seeds = _drawings(forward_batch, [str(owner[0]) for owner in owners])
        return list(new_blocks((tokens == self.mask_id) & ~given, given, owners, drawings, seeds))

    def step(
        self, forward_batch: ForwardBatch, full_logits: Tensor, states: list[Any]
    ) -> list[bool]:
        """Write what the decoder commits into the input ids, in place. Never raises: a request that
        cannot go on is ended alone.
        """
        tokens = self._blocks(forward_batch)
        owners = _owners(forward_batch)
        if any(seat.owner != owner for seat, owner in zip(states, owners)):
            fresh = self.init_step_state(forward_batch)
            states[:] = [
                seat if seat.owner == owner else new
                for seat, owner, new in zip(states, owners, fresh)
            ]
        before = [seat.failed for seat in states]
        logits, wrong = self._logits(forward_batch, full_logits, tokens.numel())
        if wrong is not None:
            logger.error("%s; the requests of this batch are ended", wrong)
            states[:], done = fail_blocks(tokens, self.mask_id, states), [True] * len(states)
        else:
            position = forward_batch.positions.view(tokens.shape)
            states[:], done = advance_blocks(
                self.decoder, logits, tokens, position, self.mask_id, states
            )
        self._refuse(tokens, states, done, before)
        return done

    def _blocks(self, forward_batch: ForwardBatch) -> Tensor:
        """The batch's blocks [rows, block_size], a view of its input ids."""
        found: Tensor = forward_batch.input_ids.view(forward_batch.batch_size, self.block_size)
        return found

    def _logits(
        self, forward_batch: ForwardBatch, logits: Any, rows: int
    ) -> tuple[Tensor, ModelError | None]:
        """The logits without padded columns, and what is wrong with their shape."""
        vocab = getattr(forward_batch.sampling_info, "vocab_size", None)
        if (
            not isinstance(logits, Tensor)
            or logits.dim() != 2
            or len(logits) != rows
            or logits.shape[1] < (vocab or 1)
        ):
            given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            shape = f"({rows}, {vocab or 'vocabulary'})"
            return torch.empty(0, 0), ModelError(
                "the model returned logits of the wrong shape",
                given=given,
                allowed=shape,
                hint="Check the model.",
            )
        return logits[:, :vocab], None

    def _refuse(
        self, tokens: Tensor, states: list[Any], done: list[bool], before: list[bool]
    ) -> None:
        """Mark the blocks of requests that failed, once no forward pass will read them any more."""
        for seat, failed in zip(states, before):
            if seat.failed and not failed:
                logger.error(
                    "request %s: the model returned logits that are not numbers; it is ended",
                    seat.owner[0],
                )
        if self.fdfo or all(done):
            for row, seat in enumerate(states):
                if seat.failed and done[row]:
                    tokens[row].masked_fill_(seat.place["lost"][0], REFUSED)


def algorithm_classes() -> dict[str, type[CreditAlgorithm]]:
    """A class for every algorithm, by name."""
    return {
        name: type(
            name, (CreditAlgorithm,), {"rule": decoder, "__doc__": f"The decoder {decoder}."}
        )
        for name, decoder in algorithm_decoders().items()
    }


def _owners(forward_batch: ForwardBatch) -> list[tuple[Hashable, ...]]:
    """Whose block it is: the request and where the block begins, both known to the host."""
    count = forward_batch.batch_size
    names = forward_batch.rids or range(count)
    starts = forward_batch.extend_prefix_lens_cpu or [0] * count
    return list(zip(names, starts))


def _drawings(
    forward_batch: ForwardBatch, names: list[str]
) -> tuple[list[SamplingParams], list[int]]:
    """How each request is drawn, and its seed: the request's own where SGLang hands it on, else one
    made of its id, the same on every rank.
    """
    info, seeds = forward_batch.sampling_info, [seed_from_name(name) for name in names]
    if info is None or info.is_all_greedy:
        return [SamplingParams()] * len(names), seeds
    columns = [info.temperatures.view(-1), info.top_ks, info.top_ps]
    values = torch.stack([column.double() for column in columns], 1).tolist()
    if getattr(info, "sampling_seed", None) is not None:
        seeds = info.sampling_seed.tolist()
    return [
        _drawing(temperature, int(top_k), top_p, int(info.vocab_size))
        for temperature, top_k, top_p in values
    ], seeds


def _drawing(temperature: float, top_k: int, top_p: float, vocab: int) -> SamplingParams:
    """SGLang's settings, which it holds in float32, as ours; it writes greedy as top_k 1, and no
    top_k as a very large one.
    """
    if top_k == 1 or temperature == 0:
        return SamplingParams()
    return SamplingParams(
        round(temperature, 6),
        top_k if 0 < top_k < vocab else None,
        round(top_p, 6) if 0 < top_p < 1 else None,
    )
