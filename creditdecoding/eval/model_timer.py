"""How much of the wall clock of decoding passes outside of the model's forward passes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

Answer = TypeVar("Answer")


class TimedModel(Protocol):
    """A model and its device, such as an `LM`."""

    @property
    def model(self) -> Any:
        """The network."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...


class ModelTimer:
    """Times the forward passes of a model inside a with-block, and the decoding around them.

        with ModelTimer(lm) as timer:
            for event in timer.over(lm.events(requests)):
                ...
        print(timer.outside_share)

    On CUDA the passes are timed by events on the stream; only reading the share waits for them. A
    head whose logits are not written (`HeadLogits`) runs after the pass, outside of it.
    """

    def __init__(self, lm: TimedModel) -> None:
        self._model = lm.model if isinstance(lm.model, nn.Module) else None
        self._device = lm.device
        self._hooks: list[Any] = []
        self._begins: list[Any] = []
        self._ends: list[Any] = []
        self._model_seconds = 0.0
        self._wall_seconds = 0.0

    def __enter__(self) -> ModelTimer:
        if self._model is not None and self._device.type in ("cpu", "cuda"):
            begin = self._model.register_forward_pre_hook(lambda *_: self._mark(self._begins))
            end = self._model.register_forward_hook(lambda *_: self._mark(self._ends))
            self._hooks = [begin, end]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def over(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """The same answers; only the time until each one comes counts as decoding."""
        iterator = iter(answers)
        while True:
            start = time.perf_counter()
            try:
                answer = next(iterator)
            except StopIteration:
                return
            finally:
                self._wall_seconds += time.perf_counter() - start
            yield answer

    @property
    def outside_share(self) -> float | None:
        """Share of the decoding time so far that is not in forward passes, from 0 to 1.

        None before the first pass, and for models and devices that cannot be timed.
        """
        self._add_passes()
        if not self._model_seconds or not self._wall_seconds:
            return None
        return max(0.0, 1.0 - self._model_seconds / self._wall_seconds)

    def _mark(self, marks: list[Any]) -> None:
        if self._device.type == "cpu":
            marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        marks.append(event)

    def _add_passes(self) -> None:
        """Add the passes since the last call."""
        spans = list(zip(self._begins, self._ends))
        if self._device.type == "cpu":
            self._model_seconds += sum(end - begin for begin, end in spans)
        elif spans:
            torch.cuda.synchronize(self._device)
            self._model_seconds += sum(begin.elapsed_time(end) for begin, end in spans) / 1000.0
        self._begins.clear()
        self._ends.clear()
