"""Long arithmetic word problems: four to seven changes, one step each. The task `chain`, which is
not part of `pocket`: the embedded model has seen no more than three changes.

With so many steps a single sample is often wrong, which is what search over steps is for (see
docs/research/verifiers.md).
"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.arithmetic import changes


def make(rng: random.Random) -> Item:
    """One problem."""
    return changes(rng, rng.randint(4, 7), "chain")


TASK = Task("chain", "long arithmetic word problems", make, same_answer, step_delimiter=".")
