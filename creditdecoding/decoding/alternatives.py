"""Log-probabilities of other ids than the written ones, for requests that ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from creditdecoding.decoding.block_batch import BlockBatch
from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.ops.logit_walks import raw_tiles
from creditdecoding.ops.transfer import upload
from creditdecoding.trace import StepEvent

MIN_LOGPROB = -9999.0
"""Log-probability of what must not be written; finite, so that it can be written as JSON."""
_LINES = 16
"""Lines whose whole log-probabilities are made at once, in float64."""


def with_alternatives(
    event: StepEvent,
    batch: BlockBatch,
    row: int,
    request: Request,
    commit: NDArray[np.bool_],
    vocab: SpecialTokens,
) -> StepEvent:
    """The event with the likeliest ids and those of `scored_ids` for each token that it writes, and
    their log-probabilities under a dense softmax; as it is if the request asks for neither.

    `row` is the number of the request in the batch, and `commit` [width] the decoder's decision.
    """
    if not request.top_logprobs and not request.scored_ids:
        return event
    suppressed = None
    if batch.suppressed_logits is not None:
        suppressed = (vocab.stop_ids, batch.suppressed_logits)
    columns = np.flatnonzero(batch.host.editable[row] & commit)
    (lines,) = upload([batch.host.line[row, columns]], batch.logits.device)
    scored_ids = lines.new_empty(len(lines), 0)
    if request.scored_ids:
        scored_ids = lines.new_tensor(request.scored_ids)
    rows: list[tuple[tuple[int, float], ...]] = []
    for part, part_ids in zip(lines.split(_LINES), scored_ids.split(_LINES)):
        [(_, logits)] = raw_tiles(batch.logits, part, suppressed, whole=True)
        rows += _likeliest(logits.log_softmax(-1), request.top_logprobs, part_ids)
    return replace(event, alternatives=tuple(rows))


def _likeliest(
    log_probs: Tensor,
    top_logprobs: int,
    scored_ids: Tensor,
) -> Iterator[tuple[tuple[int, float], ...]]:
    """The likeliest ids at each line and those of `scored_ids` [lines, n], the likeliest first,
    each once.

    What must not be written is left out, unless `scored_ids` names it.
    """
    count = min(top_logprobs, log_probs.shape[1])
    top_ids = log_probs.topk(count).indices
    ids = torch.cat((top_ids, scored_ids), dim=1)
    values = log_probs.gather(1, ids).clamp(min=MIN_LOGPROB)
    for own_ids, own_values in zip(ids.tolist(), values.tolist()):
        value_of = dict(zip(own_ids, own_values))
        named = own_ids[count:]
        yield tuple(
            (token, value)
            for token, value in value_of.items()
            if value > MIN_LOGPROB or token in named
        )
