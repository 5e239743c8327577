"""The eight small verifiable families that the embedded model answers, one for each kind of
benchmark in the paper.
"""

from __future__ import annotations

from creditdecoding.tasks.base import Family
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

FAMILIES: dict[str, Family] = {
    m.FAMILY.name: m.FAMILY
    for m in (facts, span, discrete, rule, program, output, arithmetic, algebra)
}
