"""dInfer's decoder interface: `block_init` begins a block, `decode` writes into it.

    from creditdecoding.integrations.dinfer import CreditThresholdParallelDecoder
    decoder = ParallelDecoder("factor:factor=1", mask_id=156895, eos_id=156892)  # any decoder

Nothing of dInfer is imported. A decoder's state belongs to one block: it is dropped at
`block_init`, when a row moves to another block, and when a row has masks again where it had none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from creditdecoding import decoders
from creditdecoding.config import GenerationConfig
from creditdecoding.decoders.base import Decoder
from creditdecoding.decoding.request import sample_seed
from creditdecoding.errors import ModelError, OptionError
from creditdecoding.integrations.blocks import (
    BlockRound,
    BlockState,
    ReservedIds,
    SamplingParams,
    check_decoder,
    new_blocks,
)

MASK_ID, END_ID = 126336, 126081
"""LLaDA's ids, the defaults of dInfer's interface."""


class ParallelDecoder:
    """A decoder as dInfer's loops call it.

    `decoder` is a name, `NAME:knob=value,...` or an object; `control_ids` are never written, like
    the mask; row i of a batch draws with `sample_seed(seed, i)`. Raises `OptionError` for decoders
    that need more than the logits of a block.
    """

    def __init__(
        self,
        decoder: Any = "credit",
        *,
        mask_id: int = MASK_ID,
        eos_id: int = END_ID,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        control_ids: Sequence[int] = (),
    ) -> None:
        rule, _ = decoders.load(decoder)
        self.decoder = check_decoder(rule, str(decoder))
        self.config = GenerationConfig(
            decoder=self.decoder,
            temperature=float(temperature),
            top_k=top_k,
            top_p=top_p,
            seed=seed,
        )
        self.mask_id, self.eos_id = mask_id, eos_id
        self._reserved = ReservedIds(mask_id, tuple(control_ids))
        self._blocks: list[BlockState] = []
        self._masks_left: Tensor | None = None

    @property
    def temperature(self) -> float:
        """0 is greedy."""
        return self.config.temperature

    @property
    def threshold(self) -> float | None:
        """The decoder's threshold, if it has one; `iter_threshold` replaces it for one call."""
        return getattr(self.decoder, "threshold", None)

    def block_init(self, block_x: Tensor, block_id: int) -> None:
        """Forget the previous block."""
        self._blocks, self._masks_left = [], None

    @torch.no_grad()
    def decode(
        self,
        logits: Tensor,
        block_start: int,
        block_end: int,
        x: Any,
        iter_threshold: float | None = None,
    ) -> None:
        """Write what the decoder commits into `x[:, block_start:block_end]`.

        `logits` [rows, width, vocab] do not change. Raises `ModelError` for logits of the wrong
        shape, NaN or infinity; nothing is written then.
        """
        tokens = x[:, block_start:block_end]
        starts = [block_start] * len(tokens)
        x[:, block_start:block_end] = self._advance(logits, tokens, starts, iter_threshold)

    @torch.no_grad()
    def batch_decode(
        self,
        logits: Tensor,
        block_start: Tensor,
        x: Any,
        block_length: int,
        iter_threshold: float | None = None,
    ) -> None:
        """`decode` for rows at different blocks, each from `block_start` [rows]; positions after
        the end of `x` are ignored.
        """
        data: Tensor = x.data
        position = block_start[:, None] + torch.arange(block_length, device=data.device)
        inside = position < data.shape[1]
        tokens = torch.where(inside, data.gather(1, position.clamp(max=data.shape[1] - 1)), -1)
        row = torch.arange(len(data), device=data.device)[:, None].expand_as(position)
        written = self._advance(logits, tokens, block_start.tolist(), iter_threshold)
        data[row[inside], position[inside]] = written[inside]

    def _advance(
        self, logits: Tensor, tokens: Tensor, starts: list[int], iter_threshold: float | None
    ) -> Tensor:
        """The blocks' tokens [rows, width] after one step."""
        self._check_shape(logits, tokens)
        decoder = self._decoder_with_threshold(iter_threshold)
        tokens = tokens.clone()
        masked = tokens == self.mask_id
        if not bool(masked.any()):
            return tokens
        offsets = torch.arange(tokens.shape[1], device=tokens.device)
        positions = torch.tensor(starts, device=tokens.device)[:, None] + offsets
        flat = logits.reshape(-1, logits.shape[2]).clone()
        blocks = self._current_blocks(masked, starts)
        batch = BlockRound(decoder, self._reserved, blocks, allow_extra_passes=False)
        batch.step(flat, tokens, positions)
        if any(batch.read()[1]):
            raise ModelError(
                "the model returned logits that are not numbers",
                given="NaN or infinity",
                hint="Check the weights.",
            )
        self._blocks, self._masks_left = batch.states(), tokens == self.mask_id
        return tokens

    def _current_blocks(self, masked: Tensor, starts: list[int]) -> list[BlockState]:
        """States of the blocks, fresh for rows at another block than in the last call."""
        rows = len(masked)
        config = self.config
        params = SamplingParams(config.temperature, config.top_k, config.top_p)
        seeds = [sample_seed(config.seed, row) for row in range(rows)]
        fresh = new_blocks(masked, ~masked, starts, [params] * rows, seeds)
        if self._masks_left is None or self._masks_left.shape != masked.shape:
            return fresh
        reset = (masked & ~self._masks_left).any(-1).tolist()
        return [
            new if reset[i] or new.owner != old.owner else old
            for i, (old, new) in enumerate(zip(self._blocks, fresh))
        ]

    def _decoder_with_threshold(self, threshold: float | None) -> Decoder:
        if threshold is None:
            return self.decoder
        if "threshold" not in decoders.settings(self.decoder):
            raise OptionError(
                "this decoder has no threshold",
                given=f"iter_threshold={threshold}",
                hint="Leave iter_threshold out.",
            )
        decoder: Any = self.decoder
        changed: Decoder = replace(decoder, threshold=float(threshold))
        return changed

    def _check_shape(self, logits: Tensor, tokens: Tensor) -> None:
        fits = logits.dim() == 3 and logits.shape[:2] == tokens.shape
        if fits and logits.shape[2] > self.mask_id:
            return
        raise ModelError(
            "the model returned logits of the wrong shape",
            given=tuple(logits.shape),
            allowed=f"({tokens.shape[0]}, {tokens.shape[1]}, more than {self.mask_id})",
            hint="Check model and mask_id.",
        )


def _check_remasking(remasking: str) -> None:
    if remasking != "low_confidence":
        raise OptionError(
            "remasking is out of range",
            given=remasking,
            allowed="low_confidence",
            hint="FixedParallelDecoder also takes random.",
        )


def ThresholdParallelDecoder(  # noqa: N802
    temperature: float,
    threshold: float,
    remasking: str = "low_confidence",
    mask_id: int = MASK_ID,
    eos_id: int = END_ID,
    use_float64: bool = False,
) -> ParallelDecoder:
    """dInfer's decoder of this name. Confidences always have the resolution of float64."""
    _check_remasking(remasking)
    decoder = decoders.create("threshold", threshold=threshold)
    return ParallelDecoder(decoder, mask_id=mask_id, eos_id=eos_id, temperature=temperature)


def CreditThresholdParallelDecoder(  # noqa: N802
    credit_alpha: float = 0.7,
    boost_gamma: float = 0.2,
    decay_beta: float = 0.8,
    *,
    temperature: float,
    threshold: float,
    remasking: str = "low_confidence",
    mask_id: int = MASK_ID,
    eos_id: int = END_ID,
    use_float64: bool = False,
) -> ParallelDecoder:
    """dInfer's decoder of this name, with its constants. Credit is sparse and exact, and none is
    carried over to the next request.
    """
    _check_remasking(remasking)
    decoder = decoders.create(
        "credit", threshold=threshold, alpha=credit_alpha, beta=decay_beta, gamma=boost_gamma
    )
    return ParallelDecoder(decoder, mask_id=mask_id, eos_id=eos_id, temperature=temperature)


def FixedParallelDecoder(  # noqa: N802
    temperature: float,
    steps: int,
    remasking: str = "low_confidence",
    mask_id: int = MASK_ID,
    eos_id: int = END_ID,
) -> ParallelDecoder:
    """dInfer's decoder of this name: `steps` passes a block, split as evenly as possible."""
    decoder = decoders.create("fixed", steps=steps, order=remasking)
    return ParallelDecoder(decoder, mask_id=mask_id, eos_id=eos_id, temperature=temperature)


def HierarchyDecoder(  # noqa: N802
    temperature: float,
    remasking: str = "low_confidence",
    mask_id: int = MASK_ID,
    eos_id: int = END_ID,
    threshold: float | None = None,
    low_threshold: float | None = 0.4,
) -> ParallelDecoder:
    """dInfer's decoder of this name, for batches too. Of equal confidences in a run of masks only
    the first is committed.
    """
    _check_remasking(remasking)
    high = 1.0 if threshold is None else threshold
    low = 0.0 if low_threshold is None else low_threshold
    decoder = decoders.create("hierarchy", threshold=high, low=low)
    return ParallelDecoder(decoder, mask_id=mask_id, eos_id=eos_id, temperature=temperature)
