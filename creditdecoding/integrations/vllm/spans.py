"""Block-causal attention out of plain bidirectional attention: a prompt is read as if each of its
blocks were a request of its own over the same cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class QuerySpans:
    """Pieces of the rows of a batch: the row of each, where its query begins and ends in the batch,
    and how many queried positions of the row come after it. All [pieces] but `starts` [pieces + 1].
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int32]
    behind: NDArray[np.int32]

    @property
    def longest(self) -> int:
        """Queries of the longest piece."""
        return int(np.diff(self.starts).max(initial=0))


def block_spans(
    first: Sequence[int],
    lengths: Sequence[int],
    prompts: Sequence[int],
    width: int,
    whole: Sequence[bool],
) -> QuerySpans:
    """The pieces of each row, which queries `lengths` positions from position `first`.

    Blocks of `width` begin at 0 and again at the end of the prompt, whose last block may be
    shorter. A row that is `whole` is one piece.
    """
    rows: list[int] = []
    sizes: list[int] = []
    behind: list[int] = []
    for row, (start, length) in enumerate(zip(first, lengths)):
        end = start + length
        cuts = [] if whole[row] else _cuts(start, end, prompts[row], width)
        edges = [start, *cuts, end]
        rows += [row] * (len(edges) - 1)
        sizes += np.diff(edges).tolist()
        behind += [end - edge for edge in edges[1:]]
    starts = np.concatenate(([0], np.cumsum(sizes)))
    return QuerySpans(
        np.asarray(rows, np.int64), starts.astype(np.int32), np.asarray(behind, np.int32)
    )


def _cuts(start: int, end: int, prompt: int, width: int) -> list[int]:
    """Edges of blocks strictly between two positions."""
    edges = [*range(0, prompt, width), *range(prompt, end, width)]
    return [edge for edge in edges if start < edge < end]
