"""Writing a small program, judged by running it on lists it was not shown. (As HumanEval.)"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task
from creditdecoding.tasks.benchmarks.extract import code, defines
from creditdecoding.tasks.sandbox import gives


def _filter(rng: random.Random) -> tuple[str, str]:
    k = rng.randint(1, 9)
    return rng.choice(
        (
            ("even numbers", "x % 2 == 0"),
            ("odd numbers", "x % 2 == 1"),
            ("positive numbers", "x > 0"),
            ("negative numbers", "x < 0"),
            (f"numbers greater than {k}", f"x > {k}"),
            (f"numbers less than {k}", f"x < {k}"),
            (f"numbers not equal to {k}", f"x != {k}"),
            (f"multiples of {k + 1}", f"x % {k + 1} == 0"),
        )
    )


def _map(rng: random.Random) -> tuple[str, str]:
    k = rng.randint(2, 9)
    return rng.choice(
        (
            ("", "x"),
            ("the squares of ", "x * x"),
            (f"{k} times ", f"x * {k}"),
            (f"{k} more than ", f"x + {k}"),
            (f"{k} less than ", f"x - {k}"),
        )
    )


_REDUCE = {
    "sum": ("total = 0", "total += {e}", "total"),
    "product": ("total = 1", "total *= {e}", "total"),
    "list": ("out = []", "out.append({e})", "out"),
    "count": ("count = 0", "count += 1", "count"),
}


def make(rng: random.Random) -> Item:
    """One function over a list: keep some numbers, change them, combine them."""
    what, test = _filter(rng)
    change, expression = _map(rng)
    kind = rng.choice(tuple(_REDUCE))
    if kind == "count":
        change, expression = "", "x"
    name = rng.choice("fgh")
    asked = f"the {kind} of {change}the {what} in xs"
    prompt = rng.choice(
        (
            f"Write a Python function {name}(xs) that returns {asked}.",
            f"Write a function {name} that takes a list xs and returns {asked}.",
            f"In Python, define {name}(xs) to give {asked}.",
        )
    )
    start, update, result = _REDUCE[kind]
    head = f"def {name}(xs):\n    # {asked}\n    {start}\n    for x in xs:\n        if {test}:\n"
    code = head + f"            {update.format(e=expression)}\n    return {result}"
    return Item("program", prompt, code, (name, code), (kind, test, expression))


def score(text: str, item: Item) -> bool:
    """The text defines the function and agrees with the reference on twelve lists and on every
    single number.
    """
    name, reference = item.gold
    rng = random.Random(repr(item.key))
    cases = [
        [rng.randint(-12, 20) for _ in range(length)]
        for length in (0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 8, 9)
    ]
    cases += [[x] for x in range(-12, 21)]  # so that no bound can be off by one
    scope: dict[str, object] = {}
    exec(reference, scope)  # our own reference text, never the model's
    expected = [scope[name](list(case)) for case in cases]  # type: ignore[operator]
    calls = [([case], wanted) for case, wanted in zip(cases, expected)]
    return gives(code(text, defines(name)), name, calls)


TASK = Task("program", "writing a small program", make, score, step_delimiter="\n")
