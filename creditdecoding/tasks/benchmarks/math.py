"""MATH: competition problems (Hendrycks et al., 2021), also its subset MATH-500. Scored by
math-verify.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import announced, boxed
from creditdecoding.tasks.benchmarks.formulas import check_installed, formula_judge

_EXAMPLES = """Problem: Solve $3x-4=11$ for $x$.
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


def _plain(text: str) -> str:
    """A formula without spacing, text commands and styles of fractions."""
    text = re.sub(r"\\(?:text|mathrm|textbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\left|\\right|\\[!,;: ]|\\\$|\$|\s|\.$", "", text.strip())
    return re.sub(r"\\[dt]frac", r"\\frac", text).removesuffix(".")


def _stated(text: str) -> str | None:
    """The inside of the box, or else the announced answer."""
    box, statement = boxed(text), announced(text)
    if box is not None or statement is None:
        return box
    return statement.split("\n")[0]


def _is_correct(text: str, gold: str) -> bool:
    """The box, the announced answer or the last formula equals the reference as mathematics."""
    check_installed()
    stated = _stated(text)
    statement = text if stated is None else stated
    if _plain(statement) == _plain(gold):
        return True
    formula = f"${statement}$" if boxed(text) is not None else statement
    return formula_judge().equal(f"${gold}$", formula)


BENCHMARK = Benchmark(
    name="math",
    title="competition mathematics",
    record_format="problem, solution with \\boxed{} or answer",
    repo="HuggingFaceH4/MATH-500",
    files=("test.jsonl",),
    templates={
        "boxed": Template(
            "{problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
        ),
        "short": Template("{problem}\nGive only the final answer, within \\boxed{{}}."),
        "plain": Template("{problem}"),
        "base": Template(_EXAMPLES + "Problem: {problem}\nSolution:", ("\nProblem:",)),
    },
    questions=_questions,
    is_correct=_is_correct,
    step_delimiter="\n",
    extract_answer=_stated,
)
