"""What a step decided, on the host. It is all that comes back from the device in a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from creditdecoding.decoders.base import Decision
from creditdecoding.errors import ModelError
from creditdecoding.ops.transfer import download


@dataclass(frozen=True)
class StepOutcome:
    """A decision on the host, numpy [rows, width], with what the trace says of it.

    `tokens`, `commit`, `confidence`, `credit` and `remask` are as in `Decision`,
    `needs_another_pass` too, at every position of a row. `top`: the model's top-1 ids, `logprobs`:
    its log-probability of `tokens`, `finite`: as in `BlockBatch`. `deferred` [rows]: whether tokens
    that do not fit to others under a constraint were left out; None without constraints.
    """

    tokens: NDArray[np.int64]
    commit: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    top: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    finite: NDArray[np.bool_] | None = None
    credit: NDArray[np.float32] | None = None
    remask: NDArray[np.bool_] | None = None
    needs_another_pass: NDArray[np.bool_] | None = None
    deferred: NDArray[np.bool_] | None = None

    def defers(self, row: int) -> bool:
        """Whether tokens of the row were left out."""
        return self.deferred is not None and bool(self.deferred[row])

    def failed(self, row: int) -> bool:
        """Whether some logits of the row are not numbers."""
        return self.finite is not None and not bool(self.finite[row].all())


def outcome_fields(
    decision: Decision, top: Tensor, logprobs: Tensor, finite: Tensor | None
) -> dict[str, Tensor]:
    """The fields of a `StepOutcome`, on the device, all [rows, width].

    - `decision`: what the decoder of these rows returned.
    - `top`: the model's top-1 ids, `logprobs`: its log-probability of the decision's tokens.
    - `finite`: as in `BlockBatch`.

    What a decoder does not use is left out, so that it is not copied to the host either.
    """
    fields = {
        "tokens": decision.tokens,
        "commit": decision.commit,
        "confidence": decision.confidence,
        "top": top,
        "logprobs": logprobs,
    }
    optional = {"finite": finite, "credit": decision.credit, "remask": decision.remask}
    fields |= {name: values for name, values in optional.items() if values is not None}
    if decision.needs_another_pass is not None:
        fields["needs_another_pass"] = decision.needs_another_pass[:, None].expand_as(top)
    return fields


def outcomes_on_host(groups: Sequence[dict[str, Tensor]]) -> list[StepOutcome]:
    """The outcomes of groups of requests from their `outcome_fields`."""
    return [StepOutcome(**fields) for fields in download(groups)]


def refuse_failed(rows: Sequence[int]) -> None:
    """Raise `ModelError` if the logits of some `rows` are not finite."""
    if rows:
        raise ModelError(
            "the model returned logits that are not numbers",
            given="NaN or infinity",
            hint="Check the weights, or load them as float32.",
            rows=tuple(sorted(rows)),
        )
