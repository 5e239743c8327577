"""The current blocks of all requests of a step, with what the model predicts in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from creditdecoding.decoding.forward import Denoiser, pad_rows, pass_logits
from creditdecoding.decoding.fused_head import leaves_unwritten
from creditdecoding.decoding.request import LogitReads, Request, SpecialTokens
from creditdecoding.models.kv_cache import KVCache
from creditdecoding.ops.head_logits import ModelLogits, gather_logits, lines_of, mass_of
from creditdecoding.ops.transfer import is_host, upload


@dataclass(frozen=True)
class LogitStats:
    """Statistics of logits: one value for each line [n], or each position [requests, width].

    - `ids`: the top-1 id; `logit`: its logit, -inf if the id is suppressed.
    - `peak`, `rest`: what confidence is measured by (`Prediction.mass`).
    - `full_peak`, `full_rest`: the same with the suppressed ids.
    """

    ids: Tensor
    logit: Tensor
    peak: Tensor
    rest: Tensor
    full_peak: Tensor
    full_rest: Tensor

    @classmethod
    def plain(cls, ids: Tensor, peak: Tensor, rest: Tensor) -> LogitStats:
        """Those of `vocab_mass`, where no id is suppressed."""
        return cls(ids, logit=peak, peak=peak, rest=rest, full_peak=peak, full_rest=rest)

    def spread(self, line: Tensor, editable: Tensor) -> LogitStats:
        """The statistics at each position, from `line` [requests, width]; where nothing is
        `editable` every probability is 0.
        """
        if is_host(editable.device) and self.full_peak is self.peak:
            return self._spread_on_host(line, editable)
        outside = ~editable

        def at_positions(values: Tensor, fill: float) -> Tensor:
            return values[line].masked_fill(outside, fill)

        ids = at_positions(self.ids, 0)
        peak = at_positions(self.peak, 0.0)
        rest = at_positions(self.rest, torch.inf)
        if self.full_peak is self.peak:
            return LogitStats.plain(ids, peak, rest)
        return LogitStats(
            ids=ids,
            logit=at_positions(self.logit, 0.0),
            peak=peak,
            rest=rest,
            full_peak=at_positions(self.full_peak, 0.0),
            full_rest=at_positions(self.full_rest, torch.inf),
        )

    def _spread_on_host(self, line: Tensor, editable: Tensor) -> LogitStats:
        """`spread` by numpy, of statistics in which no id is suppressed."""
        inside = editable.numpy().nonzero()
        own = line.numpy()[inside]

        def at_positions(values: Tensor, fill: float) -> Tensor:
            array = values.numpy()
            spread = np.full(editable.shape, fill, dtype=array.dtype)
            spread[inside] = array[own]
            return torch.from_numpy(spread)

        ids = at_positions(self.ids, 0)
        peak = at_positions(self.peak, 0.0)
        return LogitStats.plain(ids, peak, at_positions(self.rest, np.inf))

    def of(self, index: Tensor) -> LogitStats:
        """The statistics of some requests."""
        own = {name: values[index] for name, values in vars(self).items()}
        if self.full_peak is self.peak:  # as in `spread`, one tensor for what is equal
            own |= {"logit": own["peak"], "full_peak": own["peak"], "full_rest": own["rest"]}
        return LogitStats(**own)


@dataclass(frozen=True)
class HostWindows:
    """The decision windows of all requests on the host, numpy [requests, width], padded.

    `start` [requests]: where each begins. `rewritten`: where leave-one-out logits are read, None if
    nowhere. `row`, `column` [n]: where there is a prediction.
    """

    start: NDArray[np.int64]
    tokens: NDArray[np.int64]
    masked: NDArray[np.bool_]
    editable: NDArray[np.bool_]
    rewritten: NDArray[np.bool_] | None
    row: NDArray[np.int64]
    column: NDArray[np.int64]

    @property
    def position(self) -> NDArray[np.int64]:
        """Positions of the windows in their requests."""
        return self.start[:, None] + np.arange(self.tokens.shape[1])

    @property
    def line(self) -> NDArray[np.int64]:
        """The line of logits of each position, 0 where there is none."""
        line = np.zeros_like(self.tokens)
        line[self.row, self.column] = np.arange(len(self.row))
        return line

    def reads(self) -> LogitReads:
        """Ordinary logits where `editable`, then leave-one-out ones where `rewritten`."""
        row, position = self.row, self.start[self.row] + self.column
        if self.rewritten is None:
            return LogitReads.plain(torch.from_numpy(row), torch.from_numpy(position))
        extra_row, extra_column = self.rewritten.nonzero()
        extra_position = self.start[extra_row] + extra_column
        return LogitReads(
            row=torch.from_numpy(np.concatenate((row, extra_row))),
            position=torch.from_numpy(np.concatenate((position, extra_position))),
            leave_one_out=torch.arange(len(row) + len(extra_row)) >= len(row),
        )


def host_windows(requests: Sequence[Request]) -> HostWindows:
    """The decision windows of the requests."""
    windows = [request.decision_window for request in requests]

    def padded(values: Sequence[Tensor]) -> NDArray[Any]:
        return pad_rows([x.numpy()[start:end] for x, (start, end) in zip(values, windows)])

    masked = padded([request.masked for request in requests])
    editable = masked
    if any(request.capabilities.can_edit for request in requests):
        editable = padded([request.editable for request in requests])
    rewritten = None
    if any(request.capabilities.leave_one_out for request in requests):
        rewritten = padded([request.leave_one_out_mask for request in requests])
    row, column = editable.nonzero()
    return HostWindows(
        start=np.array([start for start, _ in windows], dtype=np.int64),
        tokens=padded([request.canvas for request in requests]),
        masked=masked,
        editable=editable,
        rewritten=rewritten,
        row=row,
        column=column,
    )


@dataclass(frozen=True)
class BlockBatch:
    """The decision windows of all requests and their predictions.

    All on the device and [requests, width] but `host`, which is on the host.

    - `tokens`, `masked`, `position`; `editable`: where there is a prediction; `masked_index`: its
      row and column. `finite`: False where its logits are not numbers, None if that is nowhere.
      Nothing is masked or editable in such a row, so that decoders need not know of it.
    - `logits` [n, vocab], written or not; `logit_row` names the line of each editable position.
    - `stats`: of the logits at each position.
    - `suppressed_logits` [n, stop ids] and `leave_one_out_probs`: as in `Prediction`.
    - `initial_masks`, `step`, `seed` [requests], as in `Request`.
    """

    host: HostWindows
    tokens: Tensor
    masked: Tensor
    position: Tensor
    editable: Tensor
    finite: Tensor | None
    masked_index: tuple[Tensor, Tensor]
    logits: ModelLogits
    logit_row: Tensor
    stats: LogitStats
    suppressed_logits: Tensor | None
    leave_one_out_probs: Tensor | None
    initial_masks: Tensor
    step: Tensor
    seed: Tensor


PER_REQUEST = (
    *("tokens", "masked", "position", "editable", "logit_row"),
    *("initial_masks", "step", "seed"),
)
"""Fields of a `BlockBatch` with a row for each request."""


def predict(
    model: Denoiser,
    requests: Sequence[Request],
    vocab: SpecialTokens,
    device: torch.device,
    cache: KVCache | None = None,
    representative: Sequence[int] | None = None,
    prefill: Sequence[Request] = (),
) -> BlockBatch:
    """Run the model once over the requests; the arguments are those of `pass_logits`.

    Raises `ModelError` if the logits have the wrong shape.
    """
    host = host_windows(requests)
    count = len(host.row)
    reads = host.reads()
    fused = _fuses_head(requests, len(reads.row))
    everything = pass_logits(
        model,
        requests,
        vocab,
        device,
        reads,
        cache,
        representative,
        prefill,
        fused,
    )
    extra_logits = lines_of(everything, slice(count, None))
    logits, stats, suppressed_logits = _statistics(
        lines_of(everything, slice(0, count)), requests, host.row, vocab
    )
    numbers = [(r.initial_masks, r.step, r.config.seed) for r in requests]
    windows = (host.tokens, host.masked, host.editable, host.position, host.line)
    tokens, masked, editable, position, line, row, column, per_request = upload(
        [*windows, host.row, host.column, np.array(numbers, dtype=np.int64).T], device
    )
    initial_masks, step, seed = per_request
    finite = _finite(stats, line, editable)
    if finite is not None:
        usable = finite.all(-1, keepdim=True)
        masked, editable = masked & usable, editable & usable
    return BlockBatch(
        host=host,
        tokens=tokens,
        masked=masked,
        position=position,
        editable=editable,
        finite=finite,
        masked_index=(row, column),
        logits=logits,
        logit_row=line,
        stats=stats.spread(line, editable),
        suppressed_logits=suppressed_logits,
        leave_one_out_probs=_leave_one_out_probs(extra_logits, host, tokens),
        initial_masks=initial_masks,
        step=step,
        seed=seed,
    )


def _fuses_head(requests: Sequence[Request], lines: int) -> bool:
    """Whether a pass that reads `lines` of logits does not write them."""
    if not requests or any(request.needs_whole_logits for request in requests):
        return False
    return leaves_unwritten(requests[0].geometry, lines)


def _finite(stats: LogitStats, line: Tensor, editable: Tensor) -> Tensor | None:
    """Where the logits of a position are numbers, or none are read; None if that is everywhere and
    the host can know.
    """
    total = stats.full_peak + stats.full_rest
    if is_host(total.device) and np.isfinite(total.numpy()).all():
        return None
    finite = torch.isfinite(total)
    return finite[line] | ~editable


def _leave_one_out_probs(logits: ModelLogits, host: HostWindows, tokens: Tensor) -> Tensor | None:
    """Probability of each token where `rewritten`, from its logits there, 1 elsewhere; None without
    such logits.
    """
    if host.rewritten is None or not len(logits):
        return None
    row, column = upload(host.rewritten.nonzero(), logits.device)
    written = tokens[row, column]
    line = torch.arange(len(logits), device=logits.device)
    ids, peak, rest = mass_of(logits)
    logit = gather_logits(logits, line, written[:, None])[:, 0]
    logit = torch.where(written == ids, peak, logit)
    probs = torch.ones(tokens.shape, device=logits.device)
    return probs.index_put((row, column), ((logit - peak) - rest.log1p()).exp().float())


def _statistics(
    logits: ModelLogits, requests: Sequence[Request], row: NDArray[np.int64], vocab: SpecialTokens
) -> tuple[ModelLogits, LogitStats, Tensor | None]:
    """The logits, their statistics [n], and the suppressed logits if there are any.

    `row` [n] is the request of each line. If the request writes end tokens last, their logits in
    the line are set to -inf, in place if they are written.
    """
    ids, peak, rest = mass_of(logits)
    stats = LogitStats.plain(ids, peak, rest)
    suppresses = [request.config.confidence_eos_eot_inf for request in requests]
    if not any(suppresses):
        return logits, stats, None
    in_line = np.array(suppresses)[row]
    numbers = [np.flatnonzero(in_line), in_line, np.array(vocab.stop_ids, dtype=np.int64)]
    lines, suppressed, stops = upload(numbers, logits.device)
    is_stop = ids[:, None] == stops
    every_line = torch.arange(len(logits), device=logits.device)
    stop_logits = gather_logits(logits, every_line, stops.expand(len(logits), -1))
    stop_logits = torch.where(is_stop, peak[:, None], stop_logits)
    if isinstance(logits, Tensor):
        logits[lines[:, None], stops] = -torch.inf
    else:
        logits = replace(logits, suppressed=suppressed)
    _, line_peak, line_rest = mass_of(lines_of(logits, lines))
    line_rest = line_rest.nan_to_num(nan=torch.inf)  # only end tokens left: confidence 0
    stats = replace(
        stats,
        logit=peak.masked_fill(is_stop.any(-1) & suppressed, -torch.inf),
        peak=peak.index_put((lines,), line_peak),
        rest=rest.index_put((lines,), line_rest),
    )
    return logits, stats, stop_logits
