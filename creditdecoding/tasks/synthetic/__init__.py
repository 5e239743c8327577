"""The eight synthetic tasks that the embedded model answers, one for each kind of benchmark in the
paper.
"""

from __future__ import annotations

from creditdecoding.tasks.base import Task
from creditdecoding.tasks.synthetic import (
    algebra,
    arithmetic,
    discrete,
    facts,
    output,
    program,
    rule,
    span,
)

_MODULES = (facts, span, discrete, rule, program, output, arithmetic, algebra)
SYNTHETIC_TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in _MODULES}
