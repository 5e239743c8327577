"""Is a decoder's loss of score below a bound? An exact test for paired right/wrong answers, and how
many items it needs.

The loss of an item is 1 where standard decoding is right and the other decoder wrong, -1 the other
way round, 0 where they agree. Items are
drawn independently; nothing else is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

MOST_ITEMS = 4_000
_STAKES = 64  # wagers of which the best is taken
_CELLS, _SHARE = (
    48,
    1.005,
)  # parts of the null hypothesis to begin with; how near to the exact p-value the bound must come
_ROUNDS, _WIDTH = 12, 64


@dataclass(frozen=True)
class PairedCounts:
    """Of `items` items, `lost` are right under standard decoding alone, `won` under the other
    decoder alone.
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
        return PairedCounts(
            items, math.ceil(self.lost * items / self.items), self.won * items // self.items
        )


def p_value(counts: PairedCounts, bound: float) -> float:
    """Chance of evidence as strong as this at most, were the expected loss `bound` (a share, in (0,
    1)) or more.

    Evidence is ordered by the wealth of a bet against the hypothesis, max over stakes s of prod_i
    (1 + s (bound - loss_i)) (Waudby-Smith and
    Ramdas, arXiv 2010.09686). Were its Markov bound 1/wealth the p-value, it would be valid but
    wasteful: with three possible losses the
    chance itself can be had, p = sup over the hypothesis of P(wealth >= wealth seen), the exact
    unconditional test of paired proportions (Hsueh,
    Liu and Chen, Biometrics 57, 2001). Wealth falls with every loss and rises with every gain, so
    the supremum lies where P(loss) = P(gain) +
    bound, and between gains a and b it is at most the chance at gain b and loss a + bound: a bound
    that holds, refined until it is
    within 0.5%. Without losses and gains it is (1 - bound) ** items.
    """
    if counts.loss >= bound:
        return 1.0
    most = _reach(counts, bound)
    edges = np.maximum(0.0, (np.linspace(math.sqrt(bound), 1.0, _CELLS + 1) ** 2 - bound) / 2)
    low, high = edges[:-1], edges[1:]
    above = _chance(most, counts.items, high, low + bound)
    reached = done = 0.0
    for _ in range(_ROUNDS):
        reached = max(reached, float(_chance(most, counts.items, low, low + bound).max()))
        open_ = above > reached * _SHARE
        done = max(done, float(above[~open_].max(initial=0.0)))
        if not open_.any():
            return min(1.0, done)
        middle = (low[open_] + high[open_]) / 2
        low, high = np.concatenate([low[open_], middle]), np.concatenate([middle, high[open_]])
        above = _chance(most, counts.items, high, low + bound)
    return min(1.0, max(done, float(above.max())))


def items_needed(counts: PairedCounts, bound: float, level: float) -> int | None:
    """About how many items would give a p-value of `level` at most if their shares stayed as they
    are; None beyond `MOST_ITEMS`.
    """

    def enough(items: int) -> bool:
        return p_value(counts.scaled(items), bound) <= level

    high = max(8, counts.items)
    while not enough(high):
        high *= 2
        if high > MOST_ITEMS:
            return None
    low = 1 if high == max(8, counts.items) else high // 2
    return _first(enough, low, high)


def _first(enough: Callable[[int], bool], low: int, high: int) -> int:
    """Where `enough` begins to hold, to within 1%, between `low` and a `high` where it does."""
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _wealth(lost: Numbers, won: Numbers, items: int, bound: float) -> Numbers:
    """Logarithm of the best bet's wealth for counts [n]."""
    stakes = np.concatenate([[0.0], np.geomspace(1e-3, 1.0, _STAKES)]) / (1 - bound)
    with np.errstate(divide="ignore", invalid="ignore"):
        loses = np.where(
            lost[:, None] > 0,
            lost[:, None] * np.log(np.maximum(0.0, 1 - stakes * (1 - bound))),
            0.0,
        )
    wins = won[:, None] * np.log1p(stakes * (1 + bound)) + (items - lost - won)[:, None] * np.log1p(
        stakes * bound
    )
    return np.asarray((loses + wins).max(-1))


def _reach(counts: PairedCounts, bound: float) -> NDArray[np.int64]:
    """For each number of gains [items + 1] the most losses that are evidence as strong, -1 where
    none is.
    """
    won = np.arange(counts.items + 1)
    seen = _wealth(np.array([counts.lost]), np.array([counts.won]), counts.items, bound)[0] - 1e-9
    low, high = np.full_like(won, -1), counts.items - won
    while (low < high).any():
        middle = (low + high + 1) // 2
        strong = (
            _wealth(np.maximum(middle, 0).astype(float), won.astype(float), counts.items, bound)
            >= seen
        )
        low, high = np.where(strong, middle, low), np.where(strong, high, middle - 1)
    return low


def _chance(most: NDArray[np.int64], items: int, gain: Numbers, loss: Numbers) -> Numbers:
    """P(losses <= most[gains]) for chances of a gain and of a loss [n], which may add up to a
    little more than 1.
    """
    parts = [
        _part(most, items, gain[i : i + _WIDTH], loss[i : i + _WIDTH])
        for i in range(0, len(gain), _WIDTH)
    ]
    return np.concatenate(parts)


def _part(most: NDArray[np.int64], items: int, gain: Numbers, loss: Numbers) -> Numbers:
    """Sum over gains g of binomial(g; items, gain) times the binomial distribution function of
    losses among the others, up to most[g].

    The distribution function moves on by single terms, all positive: one more loss allowed, F(m +
    1; N) = F(m; N) + f(m + 1; N), or one
    trial less, F(m; N - 1) = F(m; N) + q f(m; N - 1).
    """
    run = np.maximum.accumulate(most)
    gains = np.arange(items + 1)
    raised = np.diff(run, prepend=-1)
    of = np.repeat(gains, raised + 1)
    ends = np.cumsum(raised + 1) - 1
    nth = (
        np.arange(len(of)) - (ends - raised)[of]
    )  # 0: one trial less; from 1 on: one more loss allowed
    before = np.concatenate([[-1], run[:-1]])[of]
    trials, lost = items - of, before + nth
    there = (lost >= 0) & (lost <= trials)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, items + 1)))])
    share = (loss / (1 - gain))[:, None]
    held = np.where(there, lost, 0)
    choose = log_factorial[trials] - log_factorial[held] - log_factorial[trials - held]
    terms = (
        there
        * np.exp(choose + held * np.log(share) + (trials - held) * np.log1p(-share))
        * np.where(nth == 0, share, 1.0)
    )
    below = np.minimum(1.0, np.cumsum(terms, 1)[:, ends])
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = (
            np.where(gains > 0, gains * np.log(gain)[:, None], 0.0)
            + (items - gains) * np.log1p(-gain)[:, None]
        )
    weights += log_factorial[items] - log_factorial - log_factorial[::-1]
    return np.asarray((np.exp(weights) * below).sum(1))
