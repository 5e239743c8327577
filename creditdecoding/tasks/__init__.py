"""Verifiable tasks by name: `pocket` is all eight embedded families, a family's name is that one,
`chain` longer problems than the
embedded model knows (chain.py), a benchmark's name (benchmarks/) that one, a data file's path the
questions in it (questions.py).
"""

from __future__ import annotations

from creditdecoding.errors import unknown_name
from creditdecoding.tasks import benchmarks
from creditdecoding.tasks import custom as questions
from creditdecoding.tasks.base import Family
from creditdecoding.tasks.synthetic import FAMILIES, chain

MADE = {**FAMILIES, chain.FAMILY.name: chain.FAMILY}
"""Every family whose items are made, by name."""


def families(names: str) -> list[Family]:
    """The families that a comma-separated text names, without repeats. Raises `OptionError`."""
    found: dict[str, Family] = {}
    for name in (part.strip() for part in names.split(",")):
        if name == "pocket":
            found |= FAMILIES
        elif name in MADE:
            found[name] = MADE[name]
        elif benchmarks.is_named(name):
            loaded = benchmarks.load(name)
            found[loaded.name] = loaded
        elif questions.is_file(name):
            found[name] = questions.load(name)
        else:
            raise unknown_name("task", name.partition("=")[0], ["pocket", *MADE, *benchmarks.NAMES])
    return list(found.values())
