"""MBPP: a Python function from a sentence and three asserts (Austin et al., 2021), full or
sanitized. The asserts judge it and call it from another process.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import code, defines
from creditdecoding.tasks.sandbox import passes_tests

_SECONDS = 30  # for all its tests; the slowest reference takes a third of it
_TEST_IDS = range(11, 511)  # of the whole data set; the others are for prompts, training, tuning
_EXAMPLES = (
    "You are an expert Python programmer, and here is your task: "
    "Write a function to count the vowels of a word. "
    "Your code should pass these tests:\n\n"
    'assert count_vowels("tree") == 2\nassert count_vowels("sky") == 0\n[BEGIN]\n'
    'def count_vowels(word):\n    return sum(letter in "aeiou" for letter in word)\n[DONE]\n\n'
    "You are an expert Python programmer, and here is your task: "
    "Write a function to find the largest gap between two neighbours of a list. "
    "Your code should pass these tests:\n\n"
    "assert largest_gap([1, 4, 9]) == 5\nassert largest_gap([3, 1]) == 2\n[BEGIN]\n"
    "def largest_gap(numbers):\n"
    "    return max(abs(a - b) for a, b in zip(numbers, numbers[1:]))\n[DONE]\n\n"
)


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    number = record.get("task_id")
    if isinstance(number, int) and number not in _TEST_IDS:
        return
    text = record["prompt"] if "prompt" in record else record["text"]
    reference = record["code"].replace("\r\n", "\n").strip()
    tests = [test.strip() for test in record["test_list"]]
    name = _tested_function(reference, tests)
    setup = [*record.get("test_imports", ()), record.get("test_setup_code", "")]
    yield Question(
        {"text": text.strip(), "tests": "\n".join(tests)},
        f"```python\n{reference}\n```",
        (name, _check(name, setup, tests)),
    )


def _tested_function(reference: str, tests: Iterable[str]) -> str:
    """The function of the reference that the tests call."""
    defined = [node.name for node in ast.parse(reference).body if hasattr(node, "name")]
    trees = [ast.parse(test) for test in tests]
    called = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names = [name for name in defined if name in called]
    if not names:
        raise ValueError("the tests call no function of the code")
    return str(names[-1])


def _check(name: str, setup: Iterable[str], tests: Iterable[str]) -> str:
    """The asserts as a function that gets the answer's."""
    lines = [line for part in tests for line in part.split("\n")]
    body = "".join(f"    {line}\n" for line in lines)
    imports = "\n".join(setup).replace("\r\n", "\n")
    return f"{imports}\ndef check(candidate):\n    {name} = candidate\n{body}"


def _is_correct(text: str, gold: tuple[str, str]) -> bool:
    name, tests = gold
    return passes_tests(code(text, defines(name)), name, tests, seconds=_SECONDS)


BENCHMARK = Benchmark(
    name="mbpp",
    title="a Python function from a sentence and its tests",
    record_format="prompt or text, code, test_list, task_id (11 to 510: the test set)",
    repo="google-research-datasets/mbpp",
    files=("sanitized/test-00000-of-00001.parquet",),
    templates={
        "tests": Template(
            "You are an expert Python programmer, and here is your task: {text} "
            "Your code should pass these tests:\n\n{tests}"
        ),
        "block": Template(
            "{text}\nIt must pass these tests:\n```python\n{tests}\n```\n"
            "Reply with the whole function in a code block."
        ),
        "plain": Template("{text}\n\n{tests}"),
        "base": Template(
            _EXAMPLES + "You are an expert Python programmer, and here is your task: {text} "
            "Your code should pass these tests:\n\n{tests}\n[BEGIN]\n",
            ("[DONE]", "\nYou are an expert"),
        ),
    },
    questions=_questions,
    is_correct=_is_correct,
    step_delimiter="\n",
)
