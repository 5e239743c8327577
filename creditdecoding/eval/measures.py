"""Records of answers as numbers: means over tasks, with paired bootstrap intervals.

Every report of this folder is made of the four fields of an answer: score in percent, forward
passes, sequence-forwards and tokens. A column is whatever answered: a decoder, or a decoder under
other options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from creditdecoding.bootstrap import (
    RESAMPLES,
    FloatArray,
    Interval,
    percentile_interval,
    resampled_means,
    stratified_mean,
)
from creditdecoding.errors import OptionError

FIELDS = ("right", "nfe", "sequence_forwards", "tokens")
SCORE, NFE, FORWARDS, TOKENS = range(len(FIELDS))
FEW_ITEMS = 100
"""Items below which the ends of an interval are rough."""

Row = tuple[str, int]
"""Task and item number."""


def answer_values(
    records: Sequence[Mapping[str, Any]], rows: Sequence[Row], columns: Sequence[str], column: str
) -> FloatArray:
    """Fields of records as [rows, columns, fields]; `column` is the key that names their column.

    Raises `OptionError` if a record is missing.
    """
    row_index = {row: number for number, row in enumerate(rows)}
    column_index = {name: number for number, name in enumerate(columns)}
    values = np.full((len(rows), len(columns), len(FIELDS)), np.nan)
    for record in records:
        row = row_index[record["family"], record["item"]]
        values[row, column_index[record[column]]] = [
            100.0 * record["right"],
            *(record[name] for name in FIELDS[1:]),
        ]
    if not values.size or np.isnan(values).any():
        raise missing_answers(int(np.isnan(values[..., 0]).sum()))
    return values


def missing_answers(count: int) -> OptionError:
    """The error for a run that lacks answers."""
    return OptionError(
        "answers are missing",
        given=count,
        hint="Run the same command again.",
    )


@dataclass(frozen=True)
class Estimates:
    """Means of every column [columns, fields] and their resamples [resamples, columns, fields]."""

    columns: tuple[str, ...]
    means: FloatArray
    draws: FloatArray

    @classmethod
    def of(
        cls,
        values: FloatArray,
        strata: Sequence[int],
        columns: Sequence[str],
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> Estimates:
        """From values [rows, columns, fields]; `strata` has the task, as a number, of each row."""
        rows, width, _ = values.shape
        means = stratified_mean(values.reshape(rows, -1), strata)
        draws = resampled_means(values.reshape(rows, -1), strata, resamples, seed)
        shape = (width, len(FIELDS))
        return cls(tuple(columns), means.reshape(shape), draws.reshape(resamples, *shape))

    def index(self, column: str) -> int:
        """Number of a column."""
        return self.columns.index(column)

    def mean(self, column: str, field: int) -> float:
        """Mean of a field."""
        return float(self.means[self.index(column), field])

    def score(self, column: str) -> Interval:
        """Score in percent."""
        number = self.index(column)
        return percentile_interval(self.means[number, SCORE], self.draws[:, number, SCORE])

    def difference(self, column: str, other: str) -> Interval:
        """Score of `column` minus that of `other`, in points."""
        a, b = self.index(column), self.index(other)
        return percentile_interval(
            self.means[a, SCORE] - self.means[b, SCORE],
            self.draws[:, a, SCORE] - self.draws[:, b, SCORE],
        )

    def speedup(self, column: str, other: str) -> Interval:
        """Passes of `other` divided by those of `column`."""
        a, b = self.index(column), self.index(other)
        return percentile_interval(
            self.means[b, NFE] / self.means[a, NFE], self.draws[:, b, NFE] / self.draws[:, a, NFE]
        )

    def per_token(self, column: str) -> Interval:
        """Passes divided by answer tokens."""
        number = self.index(column)
        tokens = np.maximum(1e-9, self.draws[:, number, TOKENS])
        return percentile_interval(
            self.means[number, NFE] / max(1e-9, self.means[number, TOKENS]),
            self.draws[:, number, NFE] / tokens,
        )

    def summary(self, column: str) -> dict[str, Any]:
        """A JSON-ready record of one column by itself."""
        return {
            "score": self.score(column).rounded(2),
            "nfe": round(self.mean(column, NFE), 3),
            "sequence_forwards": round(self.mean(column, FORWARDS), 3),
            "tpf": round(self.mean(column, TOKENS) / self.mean(column, NFE), 3),
        }

    def compared(self, column: str, other: str) -> dict[str, Any]:
        """A JSON-ready record of one column against another."""
        return {
            "speedup": self.speedup(column, other).rounded(3),
            "difference": self.difference(column, other).rounded(2),
        }
