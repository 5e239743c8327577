"""What committing tokens side by side costs where the right answers are known: the conditional
total correlation of a reveal order (arXiv 2608.25505).

A pass that commits a set of positions draws each token by itself. If the answers are equally
likely, then given everything revealed before, the sum of the tokens' entropies exceeds their joint
entropy by the total correlation: the divergence in nats between what is drawn and what is right.
One token a pass costs nothing, and neither do tokens that do not depend on each other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from creditdecoding.trace import Trace

END = -1
"""Stands for any end token: a model may write one of several after its answer."""


class RevealCost(NamedTuple):
    """`nats`: total correlation, added up over the passes; `left_support`: some pass wrote tokens
    that no right answer has together. Later passes are then not counted.
    """

    nats: float
    left_support: bool


def reveal_cost(
    answers: Sequence[Sequence[int]], passes: Iterable[Mapping[int, int]]
) -> RevealCost:
    """The cost of an order: `answers` are the right ones, all of one length and equally likely;
    each pass has position -> token of what it commits. Positions outside the answers are left out.
    """
    possible = [tuple(answer) for answer in answers]
    length = len(possible[0])
    nats = 0.0
    for commits in passes:
        inside = sorted(position for position in commits if 0 <= position < length)
        joint = _entropy(tuple(answer[p] for p in inside) for answer in possible)
        apart = sum(_entropy(answer[p] for answer in possible) for p in inside)
        nats += max(0.0, apart - joint)
        possible = [a for a in possible if all(a[p] == commits[p] for p in inside)]
        if not possible:
            return RevealCost(nats, left_support=True)
    return RevealCost(nats, left_support=False)


def _entropy(values: Iterable[Hashable]) -> float:
    """Entropy in nats of the observed values."""
    counts = Counter(values)
    total = sum(counts.values())
    return sum(count / total * math.log(total / count) for count in counts.values())


def side_by_side(
    traces: Sequence[Trace],
    answers: Sequence[Sequence[Sequence[int]]],
    end_ids: Collection[int],
) -> dict[str, Any] | None:
    """Means over traces whose right answers are known (`padded_answers`), JSON-ready; None without
    such traces. Each of `end_ids` ends an answer.
    """
    costs = [
        reveal_cost(right, _passes(trace, end_ids))
        for trace, right in zip(traces, answers)
        if right
    ]
    if not costs:
        return None
    return {
        "prompts": len(costs),
        "nats": round(sum(cost.nats for cost in costs) / len(costs), 4),
        "left_support": sum(cost.left_support for cost in costs),
    }


def _passes(trace: Trace, end_ids: Collection[int]) -> list[dict[int, int]]:
    """The commits of each pass by position in the answer."""
    start = len(trace.prompt)
    return [
        {
            position - start: END if token in end_ids else token
            for position, token in step.commits().items()
        }
        for step in trace.steps
    ]


def padded_answers(answers: Iterable[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """The answers, each with its end, filled up with `END` to one length."""
    listed = [tuple(answer) for answer in answers]
    length = 1 + max(map(len, listed), default=0)
    return tuple(answer + (END,) * (length - len(answer)) for answer in listed)
