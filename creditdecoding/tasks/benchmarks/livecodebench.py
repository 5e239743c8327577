"""LiveCodeBench, code generation: contest problems (Jain et al., 2024), scored by all public and
private tests in the sandbox.

The data set has no reference solutions. Its packed private tests are unpickled by a reader that
allows only plain data.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import code, defines
from creditdecoding.tasks.sandbox import returns_expected, run_python

_SECONDS = 6
_MEMORY = 1 << 30
_READS_INPUT = r"\binput\b|\bstdin\b|\bopen\(0"
"""What a program has and an example of its use does not."""
_IMPORTS = (
    "import sys, math, re, itertools, collections, functools, heapq, bisect, random, string, copy\n"
    "from typing import *\n"
    "from collections import *\n"
    "from itertools import *\n"
    "from functools import *\n"
    "from heapq import *\n"
    "from bisect import *\n"
    "from math import *\n"
    "sys.setrecursionlimit(50000)\n"
)

Tests = tuple[tuple[str, str], ...]
"""Input and expected output of each test."""


class _Test(NamedTuple):
    kind: str
    input: str
    output: str


class _PlainUnpickler(pickle.Unpickler):
    """Strings, numbers, lists and dicts; no class or function, so that a file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"the private tests name {module}.{name}, not plain data")


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    tests = _tests(record["public_test_cases"]) + _tests(record["private_test_cases"])
    if not tests:
        raise ValueError("a problem without tests")
    metadata = record.get("metadata") or "{}"
    name = (json.loads(metadata) if isinstance(metadata, str) else metadata).get("func_name")
    functional = any(test.kind == "functional" for test in tests)
    if functional and not name:
        raise ValueError("a functional test without metadata: func_name")
    starter = (record.get("starter_code") or "").strip("\n")
    how = "Read the input from standard input and print the answer."
    if starter:
        how = f"Use this starting code:\n```python\n{starter}\n```"
    fields = {"question": record["question_content"].strip(), "how": how}
    gold = (name if functional else None, tuple((test.input, test.output) for test in tests))
    yield Question(fields, str(record.get("solution") or ""), gold)


def _tests(packed: Any) -> list[_Test]:
    """The tests of a list, of its JSON, or of its JSON pickled, compressed and in base 64."""
    if isinstance(packed, str):
        try:
            packed = json.loads(packed)
        except ValueError:
            packed = _unpack(packed)
    return [
        _Test(test.get("testtype", "stdin"), str(test["input"]), str(test["output"]))
        for test in packed
    ]


def _unpack(packed: str) -> Any:
    try:
        pickled = zlib.decompress(base64.b64decode(packed))
    except (ValueError, zlib.error) as error:
        raise ValueError("the private tests cannot be unpacked") from error
    try:
        return json.loads(_PlainUnpickler(io.BytesIO(pickled)).load())
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError("the private tests cannot be unpacked") from error


def _is_correct(text: str, gold: tuple[str | None, Tests]) -> bool:
    name, tests = gold
    answer = code(text, f"{defines('Solution')}|{defines(name)}" if name else _READS_INPUT)
    if not answer.strip():
        return False
    program = f"{_IMPORTS}\n{answer}"
    if name:
        return _passes_calls(program, name, tests)
    return all(_prints_expected(program, stdin, expected) for stdin, expected in tests)


def _passes_calls(program: str, name: str, tests: Tests) -> bool:
    """Call the function, or the method of class Solution, on every input: one JSON value a line and
    argument.
    """
    cases = []
    for arguments, expected in tests:
        lines = [line for line in arguments.split("\n") if line.strip()]
        cases.append((list(map(json.loads, lines)), json.loads(expected)))
    return returns_expected(program, f"Solution.{name}", cases, same_value, 2 * _SECONDS, _MEMORY)


def same_value(tree: Any, expected: object) -> bool:
    """Whether the tree of a value that an answer returned stands for the expected JSON value.
    Tuples count as lists; floats may differ slightly. The tree is not decoded.
    """
    kind, content = next(iter(tree.items())) if isinstance(tree, dict) else ("", tree)
    if isinstance(expected, list):
        values = content if kind == "tuple" else tree
        if not isinstance(values, list) or len(values) != len(expected):
            return False
        return all(map(same_value, values, expected))
    if isinstance(expected, dict):
        return kind == "dict" and _same_pairs(content, expected)
    value = int(content, 16) if kind == "int" else tree
    if isinstance(expected, float) and isinstance(value, (int, float)):
        return value == expected or abs(value - expected) <= 1e-6 * max(1, abs(expected))
    return bool(value == expected)


def _same_pairs(pairs: Any, expected: Mapping[str, object]) -> bool:
    """Whether the pairs of a dict are the expected ones, in any order."""
    values = {key: value for name, value in pairs if (key := _json_key(name)) in expected}
    if not len(pairs) == len(values) == len(expected):
        return False
    return all(same_value(values[key], value) for key, value in expected.items())


def _json_key(key: Any) -> Any:
    """A dict's key as JSON has it."""
    return key if isinstance(key, str) else json.dumps(key)


def _prints_expected(program: str, stdin: str, expected: str) -> bool:
    outcome = run_python(f"{program}\n", seconds=_SECONDS, memory=_MEMORY, stdin=stdin)
    return outcome.ok and same_output(outcome.output, expected)


def same_output(printed: str, expected: str) -> bool:
    """Equal line by line except for outer white space, or with the same number in every word."""
    lines = [line.strip() for line in printed.strip().split("\n")]
    expected_lines = [line.strip() for line in expected.strip().split("\n")]
    if len(lines) != len(expected_lines):
        return False
    return all(
        line == other or _same_numbers(line.split(), other.split())
        for line, other in zip(lines, expected_lines)
    )


def _same_numbers(words: list[str], expected: list[str]) -> bool:
    if len(words) != len(expected):
        return False
    try:
        return all(Decimal(word) == Decimal(other) for word, other in zip(words, expected))
    except InvalidOperation:
        return False


BENCHMARK = Benchmark(
    name="livecodebench",
    title="contest problems",
    record_format="question_content, starter_code, public_test_cases, private_test_cases, metadata",
    repo="livecodebench/code_generation_lite",
    files=("test6.jsonl",),
    templates={
        "contest": Template(
            "You will be given a question (problem specification) and will generate a correct "
            "Python program that matches the specification and passes all tests.\n\n"
            "Question: {question}\n\n{how}\nGive the program in one code block."
        ),
        "steps": Template(
            "{question}\n\n{how}\n"
            "Think about it step by step, then write the Python program in one code block."
        ),
        "plain": Template("{question}\n\n{how}\n"),
    },
    questions=_questions,
    is_correct=_is_correct,
    step_delimiter="\n",
)
