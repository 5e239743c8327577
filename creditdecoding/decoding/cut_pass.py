"""The pass of a row that is too long for others to wait for, in turns of a few parts.

When all parts are done, the states that they leave stand for the model in the row's step, which so
need not know of parts.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from creditdecoding.decoding.block_batch import host_windows
from creditdecoding.decoding.forward import Denoiser, is_packed, padded_pass
from creditdecoding.decoding.guidance import add_unconditional
from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.models.kv_cache import KVCache, LayerCache
from creditdecoding.models.pass_parts import states_in_parts
from creditdecoding.models.transformer import Transformer
from creditdecoding.ops.head_logits import ModelLogits


def can_cut_pass(model: Denoiser, request: Request) -> bool:
    """Whether the next pass of a request can be cut into parts.

    Compiled layers are whole, and so is a packed row, whose attention is planned for all of it.
    """
    if not isinstance(model, Transformer) or model.is_compiled:
        return False
    return not is_packed(model, [request])


@dataclass(frozen=True, eq=False)
class ComputedStates:
    """A `Denoiser` whose pass is over, as if called with its arguments: the hidden states of it."""

    model: Transformer
    hidden: Tensor

    def __call__(self, *_: Any, write_logits: bool = True, **__: Any) -> ModelLogits:
        return self.model.read(self.hidden, write_logits)


class CutPass:
    """A pass in parts, or none, of the request `number`.

    Between turns it holds the states, keys and values of one layer.
    """

    def __init__(self, model: Denoiser, vocab: SpecialTokens, device: torch.device) -> None:
        self.number: int | None = None
        self._model: Any = model
        self._vocab = vocab
        self._device = device
        self._chunk = 0
        self._caches: list[LayerCache] = []
        self._parts: Generator[None, None, Tensor] | None = None

    def begin(self, number: int, chunk: int) -> None:
        """Let the pass of a request be cut into parts of at most `chunk` positions, unless it is
        already.
        """
        if number != self.number:
            self.number = number
            self._chunk = chunk

    def drop(self, number: int) -> None:
        """Forget the pass if it is that of this request."""
        if number == self.number:
            self.number = None
            self._parts = None
            self._caches = []

    def network(self, requests: Sequence[Request], cache: KVCache | None) -> Denoiser | None:
        """What computes the pass of these requests: the model, unless it is the pass that is cut.

        Of that one, a turn of parts is run. None if it has more.
        """
        if [request.index for request in requests] != [self.number]:
            model: Denoiser = self._model
            return model
        hidden = self._run_turn(requests[0], cache)
        if hidden is None:
            return None
        self.drop(requests[0].index)
        return ComputedStates(self._model, hidden)

    @torch.inference_mode()
    def _run_turn(self, request: Request, cache: KVCache | None) -> Tensor | None:
        """Run as many parts as the network has layers, the work of a chunk at most. The states,
        after the last part.

        The request has the same canvas in every turn, but may have other slots of the cache.
        """
        if self._parts is None:
            arguments, more = self._arguments(request, cache)
            if "caches" in more:
                self._caches = list(more["caches"])
                more["caches"] = self._caches
            self._parts = states_in_parts(self._model, self._chunk, *arguments, **more)
        elif self._caches:
            _, more = self._arguments(request, cache)
            self._caches[:] = more["caches"]
        for _ in self._model.layers:
            try:
                next(self._parts)
            except StopIteration as end:
                hidden: Tensor = end.value
                return hidden
        return None

    def _arguments(self, request: Request, cache: KVCache | None) -> tuple[Any, dict[str, Any]]:
        """What the model would be called with, by position and by name."""
        reads = host_windows([request]).reads()
        rows, row_reads, _ = add_unconditional([request], reads, self._vocab.mask_id)
        return padded_pass(rows, row_reads, self._vocab, self._device, cache)
