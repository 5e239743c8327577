"""The current blocks of all requests of a step, with what the model predicts in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from creditdecoding.decoding.forward import Denoiser, logits_at
from creditdecoding.decoding.request import LogitReads, Request, SpecialTokens
from creditdecoding.errors import ModelError
from creditdecoding.models.kv_cache import KVCache
from creditdecoding.ops.vocab_stats import vocab_mass


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

    def spread(self, editable: Tensor) -> LogitStats:
        """The statistics [n] at the `editable` positions; elsewhere every probability is 0."""

        def at_positions(values: Tensor, fill: float) -> Tensor:
            full = torch.full(editable.shape, fill, dtype=values.dtype, device=values.device)
            return full.masked_scatter(editable, values)

        return LogitStats(
            ids=at_positions(self.ids, 0),
            logit=at_positions(self.logit, 0.0),
            peak=at_positions(self.peak, 0.0),
            rest=at_positions(self.rest, torch.inf),
            full_peak=at_positions(self.full_peak, 0.0),
            full_rest=at_positions(self.full_rest, torch.inf),
        )


@dataclass(frozen=True)
class BlockBatch:
    """The decision windows of all requests, padded to one width, and their predictions.

    All on the device and [requests, width] unless noted.

    - `tokens`, `masked`, `position`; `editable`: where there is a prediction, also on the host.
    - `logits` [n, vocab], of which `logit_row` names the line of each editable position.
    - `stats`: of the logits at each position.
    - `suppressed_logits` [n, stop ids] and `leave_one_out_probs`: as in `Prediction`.
    """

    tokens: Tensor
    masked: Tensor
    position: Tensor
    editable: Tensor
    host_editable: Tensor
    logits: Tensor
    logit_row: Tensor
    stats: LogitStats
    suppressed_logits: Tensor | None
    leave_one_out_probs: Tensor | None


def predict(
    model: Denoiser,
    requests: Sequence[Request],
    vocab: SpecialTokens,
    device: torch.device,
    cache: KVCache | None = None,
    representative: Sequence[int] | None = None,
) -> BlockBatch:
    """Run the model once over the requests; the arguments are those of `logits_at`.

    Raises `ModelError` if the logits have the wrong shape or are not finite.
    """
    editable = _windows(requests, [request.editable for request in requests])
    rewritten = _windows(requests, [request.leave_one_out_mask for request in requests])
    starts = torch.tensor([request.decision_window[0] for request in requests])
    position = starts[:, None] + torch.arange(editable.shape[1])
    reads = _reads(editable, rewritten, position)
    logits = logits_at(model, requests, vocab, device, reads, cache, representative)
    count = int(editable.sum())
    logits, extra_logits = logits[:count], logits[count:]
    stats, suppressed_logits = _statistics(logits, requests, reads.row[:count], vocab)
    tokens = _windows(requests, [request.canvas for request in requests]).to(device)
    masked = _windows(requests, [request.masked for request in requests]).to(device)
    logit_row = torch.zeros_like(position).masked_scatter(editable, torch.arange(count))
    device_editable = editable.to(device)
    return BlockBatch(
        tokens=tokens,
        masked=masked,
        position=position.to(device),
        editable=device_editable,
        host_editable=editable,
        logits=logits,
        logit_row=logit_row.to(device),
        stats=stats.spread(device_editable),
        suppressed_logits=suppressed_logits,
        leave_one_out_probs=_leave_one_out_probs(extra_logits, rewritten, tokens),
    )


def _windows(requests: Sequence[Request], values: Sequence[Tensor]) -> Tensor:
    """The decision windows of values [length] of each request, padded with zeros."""
    parts = [x[slice(*request.decision_window)] for request, x in zip(requests, values)]
    return pad_sequence(parts, batch_first=True)


def _reads(editable: Tensor, rewritten: Tensor, position: Tensor) -> LogitReads:
    """Ordinary logits at the `editable` positions, then leave-one-out ones where `rewritten`."""
    row, column = editable.nonzero(as_tuple=True)
    extra_row, extra_column = rewritten.nonzero(as_tuple=True)
    row = torch.cat((row, extra_row))
    return LogitReads(
        row=row,
        position=position[row, torch.cat((column, extra_column))],
        leave_one_out=torch.arange(len(row)) >= len(column),
    )


def _leave_one_out_probs(logits: Tensor, rewritten: Tensor, tokens: Tensor) -> Tensor | None:
    """Probability of each token where `rewritten`, from its logits there, 1 elsewhere; None without
    such logits.
    """
    if not len(logits):
        return None
    row, column = (index.to(logits.device) for index in rewritten.nonzero(as_tuple=True))
    logit = logits.gather(1, tokens[row, column][:, None])[:, 0].float()
    _, peak, rest = vocab_mass(logits)
    probs = torch.ones(tokens.shape, device=logits.device)
    return probs.index_put((row, column), ((logit - peak) - rest.log1p()).exp().float())


def _statistics(
    logits: Tensor, requests: Sequence[Request], row: Tensor, vocab: SpecialTokens
) -> tuple[LogitStats, Tensor | None]:
    """Statistics [n] of the logits, and the suppressed logits if there are any.

    `row` [n] is the request of each line. If the request writes end tokens last, their logits in
    the line are set to -inf in place.
    """
    ids, peak, rest = vocab_mass(logits)
    _refuse_not_finite(peak + rest, row)
    stats = LogitStats(ids, logit=peak, peak=peak, rest=rest, full_peak=peak, full_rest=rest)
    suppresses = [request.config.confidence_eos_eot_inf for request in requests]
    if not any(suppresses):
        return stats, None
    selected = [line for line, i in enumerate(row.tolist()) if suppresses[i]]
    lines = torch.tensor(selected, device=logits.device)
    stops = torch.tensor(vocab.stop_ids, dtype=torch.long, device=logits.device)
    suppressed_logits = logits[:, stops]
    logits[lines[:, None], stops] = -torch.inf
    _, line_peak, line_rest = vocab_mass(logits[lines])
    line_rest = line_rest.nan_to_num(nan=torch.inf)  # only end tokens left: confidence 0
    stats = replace(
        stats,
        logit=logits.gather(1, ids[:, None])[:, 0].float(),
        peak=peak.index_put((lines,), line_peak),
        rest=rest.index_put((lines,), line_rest),
    )
    return stats, suppressed_logits


def _refuse_not_finite(values: Tensor, row: Tensor) -> None:
    """Raise `ModelError` for the requests of which a value is NaN or infinite."""
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        raise ModelError(
            "the model returned logits that are not numbers",
            given="NaN or infinity",
            hint="Check the weights, or load them as float32.",
            rows=tuple(row[~finite.cpu()].unique().tolist()),
        )
