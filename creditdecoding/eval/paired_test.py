"""Is a decoder's loss of score below a bound? An exact test for paired right and wrong answers.

The loss of an item is 1 where only standard decoding is right, -1 where only the other decoder is,
else 0. Items are drawn independently; nothing else is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_ITEMS = 4_000
STAKES = 64
"""Stakes of which the best is taken."""
CELLS = 48
"""Parts of the null hypothesis to begin with."""
PRECISION = 1.005
"""How near to the exact p-value the bound must come, as a factor."""
ROUNDS = 12
WIDTH = 64
"""Cells that are computed at a time."""


@dataclass(frozen=True)
class PairedCounts:
    """Of `items` items, `lost` are right only under standard decoding, `won` only under the other
    decoder.
    """

    items: int
    lost: int
    won: int

    @property
    def loss(self) -> float:
        """Mean loss, in [-1, 1]."""
        return (self.lost - self.won) / self.items

    def scaled(self, items: int) -> PairedCounts:
        """The same shares of another number of items; losses rounded up, gains down."""
        lost = math.ceil(self.lost * items / self.items)
        return PairedCounts(items, lost, self.won * items // self.items)


def p_value(counts: PairedCounts, bound: float) -> float:
    """Chance of evidence at least as strong, if the expected loss were `bound` (in (0, 1)) or more.

    The test statistic is a betting e-value, max over stakes s of prod_i (1 + s (bound - loss_i))
    (Waudby-Smith and Ramdas, arXiv 2010.09686). 1 / e-value would be a valid but wasteful p-value;
    with three possible losses the chance itself can be computed: p = sup over the hypothesis of
    P(e-value >= the observed one), the exact unconditional test of paired proportions (Hsueh, Liu
    and Chen, Biometrics 57, 2001). The e-value falls with every loss and rises with every gain, so
    the supremum is where P(loss) = P(gain) + bound, and for P(gain) between a and b it is at most
    the chance at P(gain) = b, P(loss) = a + bound: an upper bound, refined to within 0.5 %. Without
    losses and gains it is (1 - bound) ** items.
    """
    if counts.loss >= bound:
        return 1.0
    most_lost = _rejection_region(counts, bound)
    edges = np.maximum(0.0, (np.linspace(math.sqrt(bound), 1.0, CELLS + 1) ** 2 - bound) / 2)
    low, high = edges[:-1], edges[1:]
    upper = _chance(most_lost, counts.items, high, low + bound)
    reached = 0.0
    closed = 0.0
    for _ in range(ROUNDS):
        reached = max(reached, float(_chance(most_lost, counts.items, low, low + bound).max()))
        is_open = upper > reached * PRECISION
        closed = max(closed, float(upper[~is_open].max(initial=0.0)))
        if not is_open.any():
            return min(1.0, closed)
        low, high = low[is_open], high[is_open]
        middle = (low + high) / 2
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
        upper = _chance(most_lost, counts.items, high, low + bound)
    return min(1.0, max(closed, float(upper.max())))


def items_needed(counts: PairedCounts, bound: float, level: float) -> int | None:
    """About how many items give a p-value of at most `level` if the shares stay as they are.

    None for more than `MOST_ITEMS`.
    """

    def enough(items: int) -> bool:
        return p_value(counts.scaled(items), bound) <= level

    low = 1
    high = max(8, counts.items)
    while not enough(high):
        if high >= MOST_ITEMS:
            return None
        low = high
        high = min(2 * high, MOST_ITEMS)
    return _bisect(enough, low, high)


def _bisect(enough: Callable[[int], bool], low: int, high: int) -> int:
    """Where `enough` begins to hold, to within 1 %, between `low` and a `high` where it does."""
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high


def _log_e_value(lost: Floats, won: Floats, items: int, bound: float) -> Floats:
    """Logarithm of the e-value for counts [n]."""
    stakes = np.concatenate([[0.0], np.geomspace(1e-3, 1.0, STAKES)]) / (1 - bound)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_loss = np.log(np.maximum(0.0, 1 - stakes * (1 - bound)))
        losses = np.where(lost[:, None] > 0, lost[:, None] * per_loss, 0.0)
    gains = won[:, None] * np.log1p(stakes * (1 + bound))
    ties = (items - lost - won)[:, None] * np.log1p(stakes * bound)
    return np.asarray((losses + gains + ties).max(-1))


def _rejection_region(counts: PairedCounts, bound: float) -> Ints:
    """For each number of gains [items + 1] the most losses with at least the observed e-value, -1
    if there are none.
    """
    won = np.arange(counts.items + 1)
    seen = np.array([counts.lost]), np.array([counts.won])
    observed = _log_e_value(*seen, counts.items, bound)[0] - 1e-9
    low, high = np.full_like(won, -1), counts.items - won
    while (low < high).any():
        middle = (low + high + 1) // 2
        lost = np.maximum(middle, 0).astype(float)
        strong = _log_e_value(lost, won.astype(float), counts.items, bound) >= observed
        low = np.where(strong, middle, low)
        high = np.where(strong, high, middle - 1)
    return low


def _chance(most_lost: Ints, items: int, gain: Floats, loss: Floats) -> Floats:
    """P(losses <= most_lost[gains]) for chances of a gain and of a loss [n], which may add up to a
    little more than 1.
    """
    parts = [
        _chance_part(most_lost, items, gain[first : first + WIDTH], loss[first : first + WIDTH])
        for first in range(0, len(gain), WIDTH)
    ]
    return np.concatenate(parts)


def _chance_part(most_lost: Ints, items: int, gain: Floats, loss: Floats) -> Floats:
    """Sum over gains g of binomial(g; items, gain) times P(losses <= most_lost[g]) among the other
    items, which are lost with chance loss / (1 - gain).
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, items + 1)))])
    gains = np.arange(items + 1)
    below = _losses_below(most_lost, items, (loss / (1 - gain))[:, None], log_factorial)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_gains = np.where(gains > 0, gains * np.log(gain)[:, None], 0.0)
    weights = log_gains + (items - gains) * np.log1p(-gain)[:, None]
    weights += log_factorial[items] - log_factorial - log_factorial[::-1]
    return np.asarray((np.exp(weights) * below).sum(1))


def _losses_below(most_lost: Ints, items: int, chance: Floats, log_factorial: Floats) -> Floats:
    """P(losses <= most_lost[g]) in items - g trials with `chance` [n, 1], for every g.

    The distribution function F moves on by single positive terms f: one more loss allowed, F(m + 1;
    N) = F(m; N) + f(m + 1; N), or one trial less, F(m; N - 1) = F(m; N) + chance f(m; N - 1).
    """
    most = np.maximum.accumulate(most_lost)
    raised = np.diff(most, prepend=-1)
    gains = np.repeat(np.arange(items + 1), raised + 1)
    ends = np.cumsum(raised + 1) - 1
    nth = np.arange(len(gains)) - (ends - raised)[gains]  # 0: a trial less; then: a loss more
    lost = np.concatenate([[-1], most[:-1]])[gains] + nth
    trials = items - gains
    exists = (lost >= 0) & (lost <= trials)
    lost = np.where(exists, lost, 0)
    choose = log_factorial[trials] - log_factorial[lost] - log_factorial[trials - lost]
    terms = np.exp(choose + lost * np.log(chance) + (trials - lost) * np.log1p(-chance))
    terms *= exists * np.where(nth == 0, chance, 1.0)
    return np.asarray(np.minimum(1.0, np.cumsum(terms, 1)[:, ends]))
