"""Countdown: reach a number from some others, each used exactly once, with + - * /.

Files as dLLM papers release them: Dream's equations step by step (arXiv 2508.15487), d1's
expression (arXiv 2504.12216), and TinyZero's rows. Either form of answer is right.
"""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import announced, boxed

_Gold = tuple[tuple[int, ...], int]
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS = "+-*/"
_LONGEST = 300  # characters of an expression
_SEARCHED = 4  # numbers, at most, for which a missing solution is searched
_REPLACEMENTS = {
    r"\times": "*",
    r"\cdot": "*",
    r"\div": "/",
    r"\left": "",
    r"\right": "",
    "\u00d7": "*",
    "\u00f7": "/",
    "\u2212": "-",
    "$": "",
    "`": "",
    "**": "",
}


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    if "nums" in record:
        solution = ""
        numbers, target = list(map(int, record["nums"])), int(record["target"])
    else:
        numbers = [int(number) for number in str(record["input"]).split(",")]
        solution = str(record["output"]).strip()
        target = numbers.pop() if "=" in solution else int(solution)
    if len(numbers) < 2:
        raise ValueError("fewer than two numbers")
    answer = solution if "=" in solution else _solution(numbers, target)
    fields = {
        "numbers": ", ".join(map(str, numbers)),
        "count": str(len(numbers)),
        "target": str(target),
        "input": ",".join(map(str, [*numbers, target])),
    }
    yield Question(fields, answer, (tuple(numbers), target))


def _solution(numbers: Sequence[int], target: int) -> str:
    """An expression that reaches the target."""
    if len(numbers) > _SEARCHED:
        raise ValueError(f"no solution is given, and there are more than {_SEARCHED} numbers")
    solution = _search([(Fraction(number), str(number)) for number in numbers], Fraction(target))
    if solution is None:
        raise ValueError("the target cannot be reached")
    return f"\\boxed{{{solution}}}"


def _search(terms: list[tuple[Fraction, str]], target: Fraction) -> str | None:
    """Join two terms at a time until one is left."""
    if len(terms) == 1:
        value, text = terms[0]
        return text if value == target else None
    for i, (a, left) in enumerate(terms):
        for j, (b, right) in enumerate(terms):
            rest = [term for index, term in enumerate(terms) if index not in (i, j)]
            signs = _SIGNS if i < j else "-/"
            for sign in signs if i != j else "":
                joined = _join(sign, a, b)
                text = f"({left}{sign}{right})"
                solution = _search([*rest, (joined, text)], target) if joined is not None else None
                if solution is not None:
                    return solution
    return None


def _join(sign: str, a: Fraction, b: Fraction) -> Fraction | None:
    """The result of an operation; None for a division by 0."""
    if sign == "/":
        return a / b if b else None
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


def _value(text: str) -> tuple[Fraction, list[int]]:
    """The value of an expression and the numbers in it. Raises `ValueError`."""
    if len(text) > _LONGEST:
        raise ValueError("too long")
    used: list[int] = []
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body, used), used
    except (SyntaxError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise ValueError("no expression") from error


def _evaluate(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _evaluate(node.left, used), _evaluate(node.right, used)
        return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    raise ValueError("not + - * / of whole numbers")


def _reaches(expression: str, gold: _Gold) -> bool:
    """Whether the expression uses every number once and has the target's value."""
    numbers, target = gold
    value, used = _value(expression)
    return value == target and Counter(used) == Counter(numbers)


def _steps_reach(equations: Sequence[str], gold: _Gold) -> bool:
    """Whether each equation holds, uses numbers that are left and leaves its result, and the last
    one leaves the target alone.
    """
    numbers, target = gold
    left = Counter(map(Fraction, numbers))
    for equation in equations:
        expression, _, result = equation.partition("=")
        (value, used), (stated, _) = _value(expression), _value(result)
        left.subtract(map(Fraction, used))
        if value != stated or len(used) != 2 or min(left.values()) < 0:
            return False
        left[stated] += 1
    return +left == Counter([Fraction(target)])


def _candidate(text: str) -> str:
    """The part of an answer that holds the expression or the equations."""
    for old, new in _REPLACEMENTS.items():
        text = text.replace(old, new)
    tagged = re.findall(r"<answer>(.*?)(?:</answer>|\Z)", text, re.DOTALL)
    text = tagged[-1] if tagged else text
    box = boxed(text)
    if box is not None:
        return box
    statement = announced(text)
    lines = (statement or text).strip().split("\n")
    return lines[0] if statement or "=" in lines[0] else lines[-1]


def _is_correct(text: str, gold: _Gold) -> bool:
    candidate = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", _candidate(text))
    equations = [part for part in re.split(r"[,;\n]", candidate.rstrip(" .")) if part.strip()]
    try:
        if len(equations) == 1:
            expression, _, result = equations[0].partition("=")
            is_stated = not result or _value(result)[0] == gold[1]
            return is_stated and _reaches(expression, gold)
        return _steps_reach(equations, gold)
    except ValueError:
        return False


BENCHMARK = Benchmark(
    name="countdown",
    title="reaching a number from others",
    record_format='input "15,44,79,50" (the target last) with output "44-15=29,79-29=50"; input '
    '"30,100,93" with output "23" (the target); or nums and target',
    repo="",
    files=(),
    templates={
        "boxed": Template(
            "Numbers: {numbers}\nTarget: {target}\n"
            "Make an arithmetic expression with the value of the target. Use every number exactly "
            "once, and +, -, * and / as you need. Think step by step, then give the expression "
            "alone, without an equals sign, within \\boxed{{}}."
        ),
        "steps": Template(
            "Use +, -, * and / on the numbers {numbers}, each exactly once, to reach {target}. "
            "Write one equation a step, separated by commas, such as 3+4=7,7*2=14, and nothing "
            "else."
        ),
        "plain": Template("Reach {target} with {numbers}, each used once, and + - * /."),
        "base": Template(
            "Given {count} numbers and a target, use +-*/ to reach the target, which is the last "
            "number.\n\nInput: 3,4,2,14\nOutput: 3+4=7,7*2=14\n\n"
            "Input: 20,6,8,18\nOutput: 20+6=26,26-8=18\n\nInput: {input}\nOutput:",
            ("\n",),
        ),
    },
    questions=_questions,
    is_correct=_is_correct,
    step_delimiter="\n",
)
