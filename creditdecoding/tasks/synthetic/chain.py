"""Long arithmetic word problems: four to seven changes, one step each. Not of pocket: the embedded
model has seen no more than three.

With as many chances to slip a single sample is often wrong, which is what search over steps is for
(docs/verifiers.md).
"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.arithmetic import chain


def make(rng: random.Random) -> Item:
    """One problem."""
    return chain(rng, rng.randint(4, 7), "chain")


TASK = Task("chain", "long arithmetic word problems", make, same_answer, step_delimiter=".")
