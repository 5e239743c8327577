"""Answers are found in what a model writes: numbers, letters, boxes, code, brackets."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from creditdecoding.tasks.benchmarks import extract


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("#### 64 dollars", "64"),
        ("So it is 3.\n#### $1,234.50", "1234.50"),
        ("#### -7", "-7"),
        ("#### \u22127 degrees", "-7"),
        ("#### -$5", "-5"),
        ("#### $-5", "-5"),
        ("#### 18.", "18"),
        ("\\boxed{1{,}234}", "1234"),
        ("\\boxed{\\$12}", "12"),
        ("first \\boxed{1}, no: $\\boxed{x=0.5}$. That took 3 steps.", "0.5"),
        ("The answer is 8 apples for 3 people.", "8"),
        ("**Answer: 5 + 3 = 8**", "8"),
        ("The final answer is: $2,000", "2000"),
        ("She has 4, then 5-3 = 2 left", "2"),
        ("it costs .75", "0.75"),
        ("1,000,000 and 1,23", "23"),
        ("- 5 apples", "5"),
        ("#### none, but 12", "12"),
        ("\\boxed{12", "12"),
        ("about Rs.500", "500"),
    ],
)
def test_numbers(text: str, value: str) -> None:
    assert extract.number(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "no number", "####", "x1 and a2b", "\\boxed{}"])
def test_no_number(text: str) -> None:
    assert extract.number(text) is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(C)", "C"),
        ("D. Jupiter", "D"),
        ("The answer is (B).", "B"),
        ("**Answer: A**", "A"),
        ("The answer is C because A is not", "C"),
        ("answer: b", None),
        ("A dog barks, so the correct answer is option D", "D"),
        ("\\boxed{C}", "C"),
        ("\\boxed{\\text{(D) Jupiter}}", "D"),
        ("Let us see. I choose B", "B"),
        ("A man walks", None),
        ("", None),
        ("E", None),
        ("Answer: Apple", None),
    ],
)
def test_choices(text: str, letter: str | None) -> None:
    assert extract.choice(text) == letter


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} then \fbox{ 2 }", "2"),
        (r"so \boxed 5.", "5"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{", None),
        (r"\boxed", None),
        (r"} \boxed{{1} and 2} {", "{1} and 2"),
        ("", None),
    ],
)
def test_boxes(text: str, inside: str | None) -> None:
    assert extract.boxed(text) == inside


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("First\n```py\na\n```\nthen\n```python\nb\n```\nthat is all", "b"),
        ("```python\nx = 1", "x = 1"),
        ("```\nx = 1\n```\n", "x = 1"),
        ("```python\nx = 1\n```\nIt prints\n```text\n1\n```", "x = 1"),
        ("x = 1\n", "x = 1\n"),
        ("x = 1```", "x = 1"),
    ],
)
def test_code_in_fences_closed_or_not(text: str, written: str) -> None:
    assert extract.code(text) == written


def test_double_brackets() -> None:
    assert extract.bracketed("[[1]] or [[ 2 ]] ") == "2"
    assert extract.bracketed("[[p];[q]]") == "p];[q"
    assert extract.bracketed("[[a, [b]]]") == "a, [b]"
    assert extract.bracketed("[[1]] and [[2") == "1"
    assert extract.bracketed("]] [[") is None
    assert extract.bracketed("[1]") is None


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (extract.boxed, "\\boxed{"),
        (extract.number, "\\boxed{1"),
        (extract.code, "```"),
        (extract.bracketed, "[["),
    ],
)
def test_an_answer_that_repeats_itself_takes_no_time(
    read: Callable[[str], object], text: str
) -> None:
    """Time that grows with the square of the length would be minutes here."""
    read(text * 100_000)
