"""Every decoder as a dLLM algorithm of SGLang.

    --dllm-algorithm CreditDecoding --dllm-algorithm-config credit.yaml

SGLang owns the model, the scheduler and both loops (`DllmAlgorithm.run`); this is the step between
two forward passes. What a request carries from step to step is a `BlockState`, which SGLang keeps
with the request. No other module imports sglang; the plug-in loads this one.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from creditdecoding.decoders import VOCAB_PARALLEL, from_settings
from creditdecoding.decoders.base import capabilities_of
from creditdecoding.errors import MissingExtraError, ModelError, OptionError
from creditdecoding.integrations.blocks import (
    BlockRound,
    ReservedIds,
    SamplingParams,
    check_decoder,
    new_blocks,
    seed_from_name,
)
from creditdecoding.integrations.sglang.plugin import DECODER_FILE, algorithm_decoders
from creditdecoding.integrations.sglang.sharding import leave_vocabulary_sharded
from creditdecoding.models.families import llada2, sdar
from creditdecoding.ops.sharded_logits import ShardedLogits
from creditdecoding.plugins import is_python_file
from creditdecoding.text.tokenizer import checkpoint_control_ids, declared_control_ids

try:
    from sglang.srt.arg_groups.overrides import resolving_view
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.distributed.parallel_state import get_tp_group
    from sglang.srt.dllm.algorithm.base import DllmAlgorithm
    from sglang.srt.dllm.config import DllmConfig
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
except ImportError as error:
    raise MissingExtraError("sglang", "sglang") from error

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SglangHooks:
    """How the installed SGLang drives an algorithm; the interface says so, not a version number.

    `batched`: rounds of several passes over the same blocks (its pull request 33190).
    `done_on_device`: `step` returns a tensor, which SGLang copies beside the next pass (40756).
    """

    batched: bool
    done_on_device: bool


def installed_hooks() -> SglangHooks:
    """What SGLang's base class of algorithms offers."""
    answer = DllmAlgorithm.step.__annotations__.get("return")
    return SglangHooks(
        batched=hasattr(DllmAlgorithm, "fdfo_batched_begin"),
        done_on_device="Tensor" in str(answer),
    )


HOOKS = installed_hooks()

REJECTED_ID = -1
"""An id outside every vocabulary. SGLang ends a request that gets one, and no other, as a request
whose model returned NaN.
"""

_UNSUPPORTED = {
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
"""Sampling parameters that no algorithm here supports, with their neutral values."""


class CreditAlgorithm(DllmAlgorithm):
    """A decoder as SGLang's algorithm. Raises `OptionError` at start for knobs, a block size or a
    decoder that cannot be served.
    """

    decoder_name: ClassVar[str]
    supported_architectures = (*llada2.ARCHITECTURES, *sdar.ARCHITECTURES)

    def __init__(self, config: DllmConfig) -> None:
        super().__init__(config)
        self.decoder = self._read_decoder(config)
        self._control_ids: tuple[int, ...] | None = None
        self._is_vocab_parallel = bool(config.algorithm_config.get(VOCAB_PARALLEL, False))
        self._vocab_group: Any = None

    @classmethod
    def _read_decoder(cls, config: DllmConfig) -> Any:
        values = config.algorithm_config
        if cls.decoder_name != DECODER_FILE:
            decoder, _ = from_settings(values, cls.decoder_name)
            return check_decoder(decoder, cls.decoder_name)
        name = values.get("name")
        if not is_python_file(name):
            raise OptionError(
                f"the configuration of {DECODER_FILE} names no Python file",
                given=name,
                allowed="name: mine.py",
                hint="Add the line, or choose the algorithm of another decoder.",
            )
        decoder, _ = from_settings(values)
        return check_decoder(decoder, name)

    @classmethod
    def configure_server_args(cls, server_args: Any) -> None:
        """Refuse a bad configuration in the launching process, before any model is loaded."""
        config = DllmConfig.from_server_args(server_args)
        cls._read_decoder(config)
        resolved = resolving_view(server_args)
        model = ModelConfig.from_server_args(
            server_args, model_path=resolved.model_path, model_revision=resolved.revision
        )
        trained = _trained_block_size(model.hf_config)
        if config.block_size < 1 or trained not in (None, config.block_size):
            raise OptionError(
                "the checkpoint does not allow these blocks",
                given=config.block_size,
                allowed=trained or "1 <= block_size",
                hint="Change block_size in the configuration, or leave it out.",
            )

    @classmethod
    def validate_request(cls, req: Any) -> str | None:
        """Why a request cannot be served; SGLang returns this to it alone."""
        unsupported = [
            name
            for name, neutral in _UNSUPPORTED.items()
            if (getattr(req.sampling_params, name, neutral) or neutral) != neutral
        ]
        flags = ("return_logprob", "custom_logit_processor")
        unsupported += [name for name in flags if getattr(req, name, None)]
        if unsupported:
            names = ", ".join(unsupported)
            return f"{names}: not supported by the algorithms of creditdecoding. Leave it out."
        config = getattr(req, "dllm_config", None)
        tells_masks_apart = hasattr(DllmAlgorithm, "_prompt_mask")
        if config is None or tells_masks_apart or config.mask_id not in req.origin_input_ids:
            return None
        return (
            "the prompt has the model's mask token, which this SGLang cannot tell from a position "
            "to write. Take it out."
        )

    def max_steps(self, block_size: int) -> int:
        """A step a position, the decoder's extra passes, and the pass that reads the last
        tokens.
        """
        return block_size + capabilities_of(self.decoder).extra_passes + 1

    def run(self, model_runner: Any, forward_batch: ForwardBatch, *states: Any) -> Any:
        """SGLang's loop over steps. Control tokens of the checkpoint are read before the first."""
        if self._control_ids is None:
            self._control_ids = _read_control_ids(model_runner.model_config)
            if self._is_vocab_parallel and leave_vocabulary_sharded(model_runner):
                self._vocab_group = get_tp_group().device_group
        return super().run(model_runner, forward_batch, *states)

    def init_step_state(self, forward_batch: ForwardBatch) -> list[Any]:
        """A fresh state for every request. The host waits only for sampling parameters, and not at
        all for greedy batches.
        """
        tokens = self._blocks(forward_batch)
        is_given = tokens != self.mask_id
        if getattr(forward_batch, "dllm_prompt_mask", None) is not None:
            is_given = forward_batch.dllm_prompt_mask
        owners = _owners(forward_batch)
        params, seeds = _sampling(forward_batch, [str(name) for name, _ in owners])
        return list(
            new_blocks((tokens == self.mask_id) & ~is_given, is_given, owners, params, seeds)
        )

    def step(self, forward_batch: ForwardBatch, output: Any, states: list[Any]) -> Any:
        """Write what the decoder commits into the input ids, in place; which blocks are done.

        `output` is the full logits. Later SGLangs pass what the logits processor returned, and
        take a tensor that the host need not read. Never raises: a request that cannot go on ends
        alone.
        """
        batch = self.fdfo_batched_begin(forward_batch, states)
        self.fdfo_batched_step(forward_batch, output, batch)
        if not HOOKS.done_on_device:
            return self.fdfo_batched_end(batch, states)
        return self._give_back(batch, states)

    def fdfo_batched_begin(self, forward_batch: ForwardBatch, states: list[Any]) -> BlockRound:
        """The blocks of a round of several passes, or of one. The host waits for nothing."""
        owners = _owners(forward_batch)
        if any(state.owner != owner for state, owner in zip(states, owners)):
            fresh = self.init_step_state(forward_batch)
            states = [new if old.owner != new.owner else old for old, new in zip(states, fresh)]
        return BlockRound(self.decoder, ReservedIds(self.mask_id, self._control_ids or ()), states)

    def fdfo_batched_step(
        self, forward_batch: ForwardBatch, output: Any, batch: BlockRound
    ) -> None:
        """One pass of the round. Blocks that are done stay as they are; the host waits for
        nothing.
        """
        tokens = self._blocks(forward_batch)
        logits = self._over_vocabulary(forward_batch, getattr(output, "full_logits", output))
        error = _shape_error(forward_batch, logits, tokens.numel())
        if error is None:
            batch.step(logits, tokens, forward_batch.positions.view(tokens.shape))
        else:
            logger.error("%s; the requests of this batch are ended", error)
            batch.fail(tokens)

    def fdfo_batched_all_finished(self, batch: BlockRound) -> bool:
        """Whether the round may end early. The host waits for this answer."""
        return batch.all_done()

    def fdfo_batched_end(self, batch: BlockRound, states: list[Any]) -> list[bool]:
        """Give the states back to their requests; which blocks are done. One copy to the host."""
        self._give_back(batch, states)
        done, failed = batch.read()
        if self.fdfo or all(done):
            for state in itertools.compress(states, failed):
                logger.error(
                    "request %s: the model returned logits that are not numbers; it is ended",
                    state.owner[0],
                )
        return done

    def _over_vocabulary(self, forward_batch: ForwardBatch, logits: Any) -> Any:
        """The logits without columns that pad the vocabulary, or as one shard of it."""
        vocab = getattr(forward_batch.sampling_info, "vocab_size", None)
        is_matrix = isinstance(logits, Tensor) and logits.dim() == 2
        if not is_matrix:
            return logits
        if vocab is not None and self._vocab_group is not None and logits.shape[1] < vocab:
            return ShardedLogits.of_shard(logits, vocab, self._vocab_group)
        return logits[:, :vocab]

    def _give_back(self, batch: BlockRound, states: list[Any]) -> Tensor:
        """New states, and which blocks are done. No forward pass reads these blocks any more."""
        batch.mark_lost(REJECTED_ID, together=not self.fdfo)
        states[:] = batch.states()
        return batch.done

    def _blocks(self, forward_batch: ForwardBatch) -> Tensor:
        """The batch's blocks [rows, block_size], a view of its input ids."""
        blocks: Tensor = forward_batch.input_ids.view(forward_batch.batch_size, self.block_size)
        return blocks


def algorithm_classes() -> dict[str, type[CreditAlgorithm]]:
    """A class for every algorithm, by name; the last one is for Python files."""
    return {
        name: type(
            name,
            (CreditAlgorithm,),
            {"decoder_name": decoder, "__doc__": f"The decoder {decoder}."},
        )
        for name, decoder in {**algorithm_decoders(), DECODER_FILE: DECODER_FILE}.items()
    }


def _trained_block_size(hf_config: Any) -> int | None:
    for name in ("block_size", "bd_size"):
        size: int | None = getattr(hf_config, name, None)
        if size is not None:
            return size
    return llada2.BLOCK if hf_config.architectures[0] in llada2.ARCHITECTURES else None


def _read_control_ids(model_config: Any) -> tuple[int, ...]:
    """Control tokens that the checkpoint's config.json or its tokenizer's files name."""
    revision = getattr(model_config, "revision", None)
    declared = declared_control_ids(model_config.hf_config)
    ids = checkpoint_control_ids(model_config.model_path, revision)
    return tuple(sorted({*declared, *ids}))


def _shape_error(forward_batch: ForwardBatch, logits: Any, rows: int) -> ModelError | None:
    vocab = getattr(forward_batch.sampling_info, "vocab_size", None)
    shape: Any = type(logits).__name__
    if isinstance(logits, (Tensor, ShardedLogits)):
        shape = tuple(logits.shape)
        if len(shape) == 2 and len(logits) == rows and logits.shape[1] >= (vocab or 1):
            return None
    return ModelError(
        "the model returned logits of the wrong shape",
        given=shape,
        allowed=f"({rows}, {vocab or 'vocabulary'})",
        hint="Check the model.",
    )


def _owners(forward_batch: ForwardBatch) -> list[tuple[Hashable, int]]:
    """The request of each block and where the block begins, both known to the host."""
    size = forward_batch.batch_size
    names = forward_batch.rids or range(size)
    starts = forward_batch.extend_prefix_lens_cpu or [0] * size
    return list(zip(names, starts))


def _sampling(
    forward_batch: ForwardBatch, names: list[str]
) -> tuple[list[SamplingParams], list[int]]:
    """How each request is drawn, and its seed: the request's own where SGLang passes it on, else
    one made of its id, the same on every rank.
    """
    info = forward_batch.sampling_info
    seeds = [seed_from_name(name) for name in names]
    if info is None or info.is_all_greedy:
        return [SamplingParams()] * len(names), seeds
    columns = [info.temperatures.view(-1), info.top_ks, info.top_ps]
    rows = torch.stack([column.double() for column in columns], 1).tolist()
    if getattr(info, "sampling_seed", None) is not None:
        seeds = info.sampling_seed.tolist()
    vocab = int(info.vocab_size)
    return [_sampling_params(row[0], int(row[1]), row[2], vocab) for row in rows], seeds


def _sampling_params(temperature: float, top_k: int, top_p: float, vocab: int) -> SamplingParams:
    """SGLang's settings, float32 there, as ours. It writes greedy as top_k 1, and no top_k as a
    very large one.
    """
    if top_k == 1 or temperature == 0:
        return SamplingParams()
    return SamplingParams(
        round(temperature, 6),
        top_k if 0 < top_k < vocab else None,
        round(top_p, 6) if 0 < top_p < 1 else None,
    )
