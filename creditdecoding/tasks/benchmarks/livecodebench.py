"""LiveCodeBench, code generation: contest problems (Jain et al., 2024), judged by all public and
private tests in the sandbox.

The data set has no reference solutions. Its packed private tests are unpickled by a reader that
allows plain data only.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import code, defines
from creditdecoding.tasks.sandbox import returns_expected, run_python

_SECONDS = 6
_READS = r"\binput\b|\bstdin\b|\bopen\(0"
"""A program, and not an example of its use, reads its input."""
_MEMORY = 1 << 30
_HEAD = (
    "import sys, math, re, itertools, collections, functools, heapq, bisect, random, string, copy\n"
    "from typing import *\nfrom collections import *\nfrom itertools import *\nfrom functools import *\nfrom heapq import *\nfrom bisect import *\n"
    "from math import *\nsys.setrecursionlimit(50000)\n"
)
Tests = tuple[tuple[str, str], ...]


class _Plain(pickle.Unpickler):
    """Strings, numbers, lists and dicts; no class and no function, so that a file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"the private tests name {module}.{name}, not plain data")


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    tests = _tests(record["public_test_cases"]) + _tests(record["private_test_cases"])
    if not tests:
        raise ValueError("a problem without tests")
    starter = (record.get("starter_code") or "").strip("\n")
    metadata = record.get("metadata") or "{}"
    name = (json.loads(metadata) if isinstance(metadata, str) else metadata).get("func_name")
    functional = any(kind == "functional" for kind, _, _ in tests)
    if functional and not name:
        raise ValueError("a functional test without metadata: func_name")
    how = (
        f"Use this starting code:\n```python\n{starter}\n```"
        if starter
        else "Read the input from standard input and print the answer."
    )
    fields = {"question": record["question_content"].strip(), "how": how}
    gold = (name if functional else None, tuple((given, wanted) for _, given, wanted in tests))
    yield Question(fields, str(record.get("solution") or ""), gold)


def _tests(found: Any) -> list[tuple[str, str, str]]:
    """(kind, input, output) of each test: a list, its JSON, or its JSON pickled, compressed and in
    base 64.
    """
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            try:
                packed = zlib.decompress(base64.b64decode(found))
            except (ValueError, zlib.error) as error:
                raise ValueError("the private tests cannot be unpacked") from error
            try:
                found = json.loads(_Plain(io.BytesIO(packed)).load())
            except (pickle.UnpicklingError, EOFError) as error:
                raise ValueError("the private tests cannot be unpacked") from error
    return [
        (test.get("testtype", "stdin"), str(test["input"]), str(test["output"])) for test in found
    ]


def _judge(text: str, gold: tuple[str | None, Tests]) -> bool:
    name, tests = gold
    written = code(text, f"{defines('Solution')}|{defines(name)}" if name else _READS)
    if not written.strip():
        return False
    return (
        _functional(written, name, tests)
        if name
        else all(_prints(written, given, wanted) for given, wanted in tests)
    )


def _functional(written: str, name: str, tests: Tests) -> bool:
    """Call the function, or the method of class Solution, on every input: one JSON value a line and
    argument.
    """
    cases = [
        ([json.loads(line) for line in given.split("\n") if line.strip()], json.loads(wanted))
        for given, wanted in tests
    ]
    program = f"{_HEAD}\n{written}"
    seconds = _SECONDS * 2
    return returns_expected(program, f"Solution.{name}", cases, same_value, seconds, _MEMORY)


def same_value(given: Any, wanted: object) -> bool:
    """Whether a value that an answer gave is the wanted one of JSON: tuples are lists, floats
    nearly equal.

    It comes as the tree of sandbox_child/values.py, and stays one.
    """
    kind, content = next(iter(given.items())) if isinstance(given, dict) else ("", given)
    if isinstance(wanted, list):
        given = content if kind == "tuple" else given
        if not isinstance(given, list) or len(given) != len(wanted):
            return False
        return all(map(same_value, given, wanted))
    if isinstance(wanted, dict):
        return kind == "dict" and _same_pairs(content, wanted)
    number = int(content, 16) if kind == "int" else given
    if isinstance(wanted, float) and isinstance(number, (int, float)):
        return number == wanted or abs(number - wanted) <= 1e-6 * max(1, abs(wanted))
    return bool(number == wanted)


def _same_pairs(pairs: Any, wanted: Mapping[str, object]) -> bool:
    """Whether the pairs of a dict are the wanted ones, in any order."""
    found = {key: value for name, value in pairs if (key := _key(name)) in wanted}
    if not len(pairs) == len(found) == len(wanted):
        return False
    return all(same_value(found[key], value) for key, value in wanted.items())


def _key(key: Any) -> Any:
    """A dict's key as JSON has it."""
    return key if isinstance(key, str) else json.dumps(key)


def _prints(written: str, given: str, wanted: str) -> bool:
    outcome = run_python(f"{_HEAD}\n{written}\n", seconds=_SECONDS, memory=_MEMORY, stdin=given)
    return outcome.ok and same_output(outcome.output, wanted)


def same_output(printed: str, wanted: str) -> bool:
    """Line by line equal but for outer white space, or in every word the same number."""
    first, second = (
        [line.strip() for line in text.strip().split("\n")] for text in (printed, wanted)
    )
    if len(first) != len(second):
        return False
    return all(a == b or _same_numbers(a.split(), b.split()) for a, b in zip(first, second))


def _same_numbers(first: list[str], second: list[str]) -> bool:
    try:
        return len(first) == len(second) and all(
            Decimal(a) == Decimal(b) for a, b in zip(first, second)
        )
    except InvalidOperation:
        return False


BENCHMARK = Benchmark(
    "livecodebench",
    "contest problems",
    "question_content, starter_code, public_test_cases, private_test_cases, metadata",
    "livecodebench/code_generation_lite",
    ("test6.jsonl",),
    {
        "contest": Template(
            "You will be given a question (problem specification) and will generate a correct Python program that matches the specification and "
            "passes all tests.\n\nQuestion: {question}\n\n{how}\nGive the program in one code block."
        ),
        "steps": Template(
            "{question}\n\n{how}\nThink about it step by step, then write the Python program in one code block."
        ),
        "plain": Template("{question}\n\n{how}\n"),
    },
    _questions,
    _judge,
    delimiter="\n",
)
