"""The synthetic tasks that the embedded model answers: eight families, one for each kind of
benchmark in the paper, and what was added to them.
"""

from __future__ import annotations

from creditdecoding.tasks.base import Task
from creditdecoding.tasks.synthetic import (
    algebra,
    arithmetic,
    discrete,
    facts,
    one_fact,
    one_step,
    other,
    output,
    program,
    rule,
    span,
    sums,
    wordings,
)
from creditdecoding.tasks.synthetic.lists import LIST_TASKS

_MODULES = (facts, span, discrete, rule, program, output, arithmetic, algebra)
SYNTHETIC_TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in _MODULES}
"""The eight families: the task group `pocket`, whose items never change."""

_ADDED = (one_step, one_fact, sums, wordings, other)
POCKET_V2_TASKS: dict[str, Task] = {
    **SYNTHETIC_TASKS,
    **{module.TASK.name: module.TASK for module in _ADDED},
    **LIST_TASKS,
}
"""All that the embedded model is trained on: the task group `pocket-v2`."""
