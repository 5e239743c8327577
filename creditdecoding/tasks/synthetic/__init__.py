"""The eight small verifiable families that the embedded model answers, one for each kind of
benchmark in the paper.
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

SYNTHETIC_TASKS: dict[str, Task] = {
    m.TASK.name: m.TASK for m in (facts, span, discrete, rule, program, output, arithmetic, algebra)
}
