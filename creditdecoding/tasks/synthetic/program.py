"""Writing a small program, judged by running it on lists it was not shown. (As HumanEval.)"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task
from creditdecoding.tasks.benchmarks.extract import code, defines
from creditdecoding.tasks.sandbox import returns_expected


def _filter(rng: random.Random) -> tuple[str, str]:
    """Which numbers of the list, in words and as a condition."""
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
    """What becomes of a number, in words and as an expression."""
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
    numbers, test = _filter(rng)
    change, expression = _map(rng)
    kind = rng.choice(tuple(_REDUCE))
    if kind == "count":
        change, expression = "", "x"
    name = rng.choice("fgh")
    value = f"the {kind} of {change}the {numbers} in xs"
    prompt = rng.choice(
        (
            f"Write a Python function {name}(xs) that returns {value}.",
            f"Write a function {name} that takes a list xs and returns {value}.",
            f"In Python, define {name}(xs) to give {value}.",
        )
    )
    start, update, result = _REDUCE[kind]
    lines = (
        f"def {name}(xs):",
        f"    # {value}",
        f"    {start}",
        "    for x in xs:",
        f"        if {test}:",
        f"            {update.format(e=expression)}",
        f"    return {result}",
    )
    reference = "\n".join(lines)
    return Item("program", prompt, reference, (name, reference), (kind, test, expression))


def score(text: str, item: Item) -> bool:
    """The text defines the function and agrees with the reference on twelve lists and on every
    number from -12 to 20 alone.
    """
    name, reference = item.gold
    rng = random.Random(repr(item.key))
    lengths = (0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 8, 9)
    lists = [[rng.randint(-12, 20) for _ in range(length)] for length in lengths]
    lists += [[number] for number in range(-12, 21)]  # so that no bound can be off by one
    scope: dict[str, object] = {}
    exec(reference, scope)  # our own reference text, never the model's
    calls = [([numbers], scope[name](list(numbers))) for numbers in lists]  # type: ignore[operator]
    return returns_expected(code(text, defines(name)), name, calls)


TASK = Task("program", "writing a small program", make, score, step_delimiter="\n")
