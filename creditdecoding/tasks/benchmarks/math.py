"""MATH: competition problems (Hendrycks et al., 2021), also its subset MATH-500. Judged by
math-verify, which only this file imports.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from creditdecoding.errors import MissingExtraError
from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import announced, boxed

try:
    from math_verify import parse, verify
except ImportError:
    parse = verify = None

_WORKED = """Problem: Solve $3x-4=11$ for $x$.
Solution: Adding 4 gives $3x=15$, so $x=\\boxed{{5}}$.

Problem: What is the area of a right triangle whose legs are 3 and $\\frac{{4}}{{5}}$?
Solution: It is $\\frac12\\cdot 3\\cdot\\frac45=\\boxed{{\\frac{{6}}{{5}}}}$.

"""


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    gold = record.get("answer") or boxed(record["solution"])
    if not gold:
        raise ValueError(r"the solution has no \boxed answer")
    yield Question(
        {"problem": record["problem"].strip()},
        record.get("solution") or f"\\boxed{{{gold}}}",
        str(gold),
    )


def _same_text(text: str) -> str:
    text = re.sub(r"\\(?:text|mathrm|textbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\left|\\right|\\[!,;: ]|\\\$|\$|\s|\.$", "", text.strip())
    return re.sub(r"\\[dt]frac", r"\\frac", text).removesuffix(".")


def _stated(text: str) -> str | None:
    """The box, or what is announced."""
    box, said = boxed(text), announced(text)
    return box if box is not None or said is None else said.split("\n")[0]


def _judge(text: str, gold: str) -> bool:
    """The box, or what is announced, or the last formula, equals the reference as mathematics."""
    if verify is None or parse is None:
        raise MissingExtraError("math-verify", "eval")
    said = _stated(text)
    found = text if said is None else said
    if _same_text(found) == _same_text(gold):
        return True
    limit = (
        5 if threading.current_thread() is threading.main_thread() else None
    )  # its time limit is a signal
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    wanted = parse(f"${gold}$", parsing_timeout=limit)
    given = parse(f"${found}$" if boxed(text) is not None else found, parsing_timeout=limit)
    return bool(verify(wanted, given, timeout_seconds=limit))


BENCHMARK = Benchmark(
    "math",
    "competition mathematics",
    "problem, solution with \\boxed{} or answer",
    "HuggingFaceH4/MATH-500",
    ("test.jsonl",),
    {
        "boxed": Template(
            "{problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
        ),
        "short": Template("{problem}\nGive only the final answer, within \\boxed{{}}."),
        "plain": Template("{problem}"),
        "base": Template(_WORKED + "Problem: {problem}\nSolution:", ("\nProblem:",)),
    },
    _questions,
    _judge,
    delimiter="\n",
    answer=_stated,
)
