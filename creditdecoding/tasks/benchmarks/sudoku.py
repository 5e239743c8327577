"""Sudoku of 4x4 or 9x9: fill the zeros. Any grid that keeps the given digits and is valid is right.

Files as dLLM papers release them: Dream's (arXiv 2508.15487) and ParallelBench's rows of lines, and
d1's (arXiv 2504.12216) strings of 16 digits. Partial credit is d1's: the share of empty cells with
the digit of the solution.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import boxed

_Gold = tuple[str, str]
"""The digits of the puzzle, 0 for an empty cell, and of its solution, row by row."""
_SIZES = {16: 4, 81: 9}


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    if str(record.get("row", [""])[0]).lower() == "puzzle":  # the head of a csv file
        return
    puzzle, solution = map(_digits, _fields(record))
    if len(puzzle) not in _SIZES or len(solution) != len(puzzle):
        raise ValueError("puzzle and solution are not 16 or 81 digits")
    if not _is_solved(solution, (puzzle, solution)):
        raise ValueError("the solution does not solve the puzzle")
    size = _SIZES[len(puzzle)]
    fields = {
        "grid": _lines(puzzle),
        "string": puzzle,
        "size": str(size),
        "box": str(math.isqrt(size)),
        "cells": str(len(puzzle)),
    }
    yield Question(fields, _lines(solution), (puzzle, solution))


def _fields(record: Mapping[str, Any]) -> tuple[object, object]:
    """Puzzle and solution under the names that released files use."""
    if "row" in record:
        return _cells(record["row"])
    names = {name.lower(): value for name, value in record.items()}
    if "puzzle" in names:
        return names["puzzle"], names["solution"]
    puzzle = names["input"]
    if isinstance(puzzle, Mapping):
        return puzzle["sudoku"], names["answer"]
    return puzzle, names["output"]


def _cells(row: list[str]) -> tuple[object, object]:
    """Puzzle and solution in a row of a csv file."""
    if len(row) != 2:
        raise ValueError("a row is not a puzzle and a solution")
    return row[0], row[1]


def _digits(value: object) -> str:
    """The digits of a grid."""
    return re.sub(r"[\s,|.]", "", str(value))


def _lines(digits: str) -> str:
    size = _SIZES[len(digits)]
    return "\n".join(digits[start : start + size] for start in range(0, len(digits), size))


def _is_solved(grid: str, gold: _Gold) -> bool:
    """Whether the grid keeps the given digits and has all digits in each row, column and box."""
    puzzle, _ = gold
    size = _SIZES[len(puzzle)]
    box = math.isqrt(size)
    units: dict[tuple[str, int], set[str]] = {}
    for cell, digit in enumerate(grid):
        row, column = divmod(cell, size)
        for unit in (("row", row), ("column", column), ("box", row // box * box + column // box)):
            units.setdefault(unit, set()).add(digit)
    digits = {str(digit) for digit in range(1, size + 1)}
    kept = all(clue in ("0", digit) for clue, digit in zip(puzzle, grid))
    return kept and all(unit == digits for unit in units.values())


def _answer(text: str, size: int) -> str | None:
    """The digits of the last grid of an answer: lines of `size` digits, or all in one string."""
    tagged = re.findall(r"<answer>(.*?)(?:</answer>|\Z)", text, re.DOTALL)
    text = tagged[-1] if tagged else text
    box = boxed(text)
    text = text if box is None else box
    last: str | None = None
    lines: list[str] = []
    for line in text.replace("\\\\", "\n").split("\n"):
        row = re.sub(r"[\s,|]", "", line)
        if len(row) == size and row.isdecimal():
            lines.append(row)
        elif row:
            lines = []
        digits = re.sub(r"\D", "", row)
        if len(digits) == size * size:
            last = digits
        elif len(lines) >= size:
            last = "".join(lines[-size:])
    return last


def _is_correct(text: str, gold: _Gold) -> bool:
    grid = _answer(text, _SIZES[len(gold[0])])
    return grid is not None and _is_solved(grid, gold)


def _partial_credit(text: str, gold: _Gold) -> float:
    """The share of empty cells with the solution's digit."""
    puzzle, solution = gold
    grid = _answer(text, _SIZES[len(puzzle)])
    empty = [cell for cell, digit in enumerate(puzzle) if digit == "0"]
    if grid is None:
        return 0.0
    if not empty or _is_solved(grid, gold):
        return float(_is_solved(grid, gold))
    return sum(grid[cell] == solution[cell] for cell in empty) / len(empty)


_RULES = (
    "Fill the positions where the values are 0 in a {size}x{size} grid with digits 1-{size} so "
    "that each column, each row and each of the {box}x{box} boxes contains every digit exactly "
    "once."
)

BENCHMARK = Benchmark(
    name="sudoku",
    title="sudoku",
    record_format="input and output (lines of digits, 0 for empty), Puzzle and Solution (strings "
    "of 16 or 81 digits), or ParallelBench's input.sudoku and answer",
    repo="",
    files=(),
    templates={
        "grid": Template(_RULES + "\n\nInput:\n{grid}\nOutput:\n"),
        "string": Template(
            _RULES + " The puzzle is given as {cells} digits, row by row. Think step by step, then "
            "give all {cells} digits of the solved grid, without spaces, between <answer> and "
            "</answer>.\n\nPuzzle: {string}"
        ),
        "plain": Template("Solve this {size}x{size} sudoku:\n{grid}"),
        "base": Template(
            _RULES + "\n\nInput:\n1034\n3402\n0143\n4320\nOutput:\n1234\n3412\n2143\n4321\n\n"
            "Input:\n4003\n0210\n1042\n2401\nOutput:\n4123\n3214\n1342\n2431\n\n"
            "Input:\n{grid}\nOutput:\n",
            ("\n\n",),
        ),
    },
    questions=_questions,
    is_correct=_is_correct,
    partial_credit=_partial_credit,
)
