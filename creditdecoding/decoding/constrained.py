"""Requests whose answer is constrained: ids that cannot stand at a position are ruled out, and of
what a decoder writes in one pass only tokens that fit together are kept.

An id that is allowed at one position leaves others open, and two tokens that are allowed apart may
exclude each other. So commits are taken in the order of their confidence, and those that no longer
fit stay masked for a later pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from creditdecoding.constraints.tokens import (
    MASK,
    Reach,
    TokenAutomaton,
)
from creditdecoding.decoding.outcome import StepOutcome
from creditdecoding.decoding.request import (
    LogitReads,
    Request,
)
from creditdecoding.errors import OptionError
from creditdecoding.ops.allowed_ids import AllowedIds
from creditdecoding.ops.transfer import upload


def constrained(request: Request, constraint: TokenAutomaton) -> Request:
    """The request with a constraint on its answer.

    Raises `OptionError` if no answer of its length satisfies it, and for stop strings, which would
    cut it.
    """
    if request.config.stop:
        raise OptionError(
            "a stop string would cut a constrained answer",
            given=list(request.config.stop),
            hint="Leave stop out.",
            param="stop",
        )
    length = request.answer_end - request.answer_start
    ids = answer_tokens(request)
    if not constraint.fits(ids, constraint.reach(ids), 0, length):
        raise _no_answer(constraint, length)
    return replace(request, constraint=constraint)


def _no_answer(constraint: TokenAutomaton, length: int) -> OptionError:
    """The error for a constraint that no answer in `length` positions satisfies."""
    shortest, longest = constraint.shortest(), constraint.longest
    allowed = None if shortest is None else f"{shortest} or more"
    hint = "Change max_tokens (gen_length)."
    if shortest is not None and shortest <= length:
        hint = "An answer that cannot end early fills its positions. " + hint
        allowed = None if longest is None else f"from {shortest} to {longest}"
    return OptionError(
        "no answer of this length satisfies the constraint",
        given=f"{length} tokens",
        allowed=allowed,
        hint=hint,
        param="max_tokens",
    )


def rule_out_disallowed(
    logits: Tensor,
    requests: Sequence[Request],
    reads: LogitReads,
) -> None:
    """Set the logits of ids that the constraint of a request does not allow to -inf, in place."""
    for lines, classes, constraint in _constrained_lines(requests, reads):
        line, is_allowed = upload([lines, classes], logits.device)
        class_of = _classes_on_device(constraint, logits.shape[1], logits.device)
        ruled_out = ~is_allowed[:, class_of]
        logits[line] = logits[line].masked_fill(ruled_out, -torch.inf)


def allowed_ids(
    requests: Sequence[Request],
    reads: LogitReads,
    vocab_size: int,
    device: torch.device,
) -> tuple[AllowedIds, ...]:
    """The same for logits that are not written: what each constraint allows at the lines."""
    allowed = []
    for lines, classes, constraint in _constrained_lines(requests, reads):
        everything = np.ones((1, classes.shape[1]), dtype=np.bool_)
        row_of_line = np.zeros(len(reads.row), dtype=np.int64)
        row_of_line[lines] = np.arange(1, 1 + len(lines))
        rows = np.concatenate((everything, classes))
        row, is_allowed = upload([row_of_line, rows], device)
        class_of = _classes_on_device(constraint, vocab_size, device)
        allowed.append(AllowedIds(class_of, row, is_allowed))
    return tuple(allowed)


def _constrained_lines(
    requests: Sequence[Request],
    reads: LogitReads,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_], TokenAutomaton]]:
    """The lines of each constrained request, and the classes that they allow, [lines, classes]."""
    for i, request in enumerate(requests):
        constraint = request.constraint
        if constraint is None:
            continue
        lines = np.flatnonzero(reads.row.numpy() == i)
        if not len(lines):
            continue
        offsets = reads.position.numpy()[lines] - request.answer_start
        before, after = constraint.reach(answer_tokens(request))
        allowed = [constraint.allowed(before[k], after[k + 1]) for k in offsets.tolist()]
        yield lines, np.stack(allowed), constraint


def _classes_on_device(
    constraint: TokenAutomaton,
    vocab_size: int,
    device: torch.device,
) -> Tensor:
    """The class of each id of the logits; ids beyond the constraint's have class 0."""
    key = (device, vocab_size)
    classes = constraint.on_device.get(key)
    if classes is None:
        padded = np.zeros(vocab_size, dtype=np.int64)
        count = min(len(padded), len(constraint.class_of))
        padded[:count] = constraint.class_of[:count]
        classes = constraint.on_device[key] = torch.from_numpy(padded).to(device)
    return classes


def answer_tokens(request: Request) -> list[int]:
    """The ids of the answer, `MASK` where nothing is written."""
    answer = slice(request.answer_start, request.answer_end)
    ids: list[int] = request.canvas[answer].masked_fill(request.masked[answer], MASK).tolist()
    return ids


def fit_together(outcome: StepOutcome, requests: Sequence[Request]) -> StepOutcome:
    """The outcome with those commits that fit together, for the `requests` of its rows."""
    if all(request.constraint is None for request in requests):
        return outcome
    outcome = replace(
        outcome,
        tokens=outcome.tokens.copy(),
        commit=outcome.commit.copy(),
        remask=None if outcome.remask is None else outcome.remask.copy(),
        deferred=np.zeros(len(requests), dtype=np.bool_),
    )
    for row, request in enumerate(requests):
        if request.constraint is not None:
            _fit_row(
                outcome,
                row,
                request,
                request.constraint,
            )
    return outcome


def _fit_row(
    outcome: StepOutcome,
    row: int,
    request: Request,
    constraint: TokenAutomaton,
) -> None:
    """Keep what fits together in a row, in place.

    Masks come before tokens that a decoder replaces, so that every pass writes one, and a block in
    which a token was deferred takes none back: so it ends. If nothing fits, the
    likeliest id of the best position, which always does, is written.
    """
    start, end = request.decision_window
    commit = outcome.commit[row, : end - start]
    commit &= request.editable.numpy()[start:end]
    columns = np.flatnonzero(commit)
    is_replaced = ~request.masked.numpy()[start:end][columns]
    order = np.lexsort((-outcome.confidence[row, columns], is_replaced))
    best_first = columns[order].tolist()
    window = _Window(request, constraint, start)
    proposed = {column: int(outcome.tokens[row, column]) for column in best_first}
    kept = window.write(proposed)
    if best_first and not kept:
        column = best_first[0]
        outcome.tokens[row, column] = outcome.top[row, column]
        kept = [column]
    commit[:] = False
    commit[kept] = True
    if outcome.deferred is not None:
        outcome.deferred[row] = len(kept) < len(columns)
    if outcome.remask is not None and request.deferred:
        outcome.remask[row] = False


class _Window:
    """The answer of a request while tokens are written into it one after the other."""

    def __init__(
        self,
        request: Request,
        constraint: TokenAutomaton,
        start: int,
    ) -> None:
        self._constraint = constraint
        self._tokens = answer_tokens(request)
        self._reach: Reach = constraint.reach(self._tokens)
        self._first = start - request.answer_start
        self._end = (
            min(
                request.decision_window[1],
                request.answer_end,
            )
            - request.answer_start
        )

    def write(self, proposed: dict[int, int]) -> list[int]:
        """Write tokens by column, each unless it does not fit to those before it; the columns that
        were written.

        What fits as a whole is not looked at one by one.
        """
        before = list(self._tokens)
        for column, token in proposed.items():
            self._tokens[self._first + column] = token
        if not proposed or self._fits():
            return list(proposed)
        self._tokens = before
        if len(proposed) == 1:
            return []
        items = list(proposed.items())
        middle = len(items) // 2
        return self.write(dict(items[:middle])) + self.write(dict(items[middle:]))

    def _fits(self) -> bool:
        start = max(0, self._first)
        return self._constraint.fits(self._tokens, self._reach, start, self._end)
