"""HumanEval: a Python function from its docstring (Chen et al., 2021), judged by its tests, which
call it from another process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import code, defines
from creditdecoding.tasks.sandbox import passes_tests

_SECONDS = 10


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    prompt, name, test = record["prompt"], record["entry_point"], record["test"]
    if "def check(" not in test or not str(name).isidentifier():
        raise ValueError("the test has no check function")
    yield Question(
        {"prompt": prompt.strip("\n")},
        f"```python\n{prompt}{record['canonical_solution']}\n```",
        (prompt, name, test),
    )


def _program(text: str, prompt: str, name: str) -> str:
    """The answer as a whole program: a function of its own after the prompt's head, or the rest of
    the prompt's function.
    """
    written = code(text, defines(name))
    if re.search(defines(name), written, re.MULTILINE):
        return _head(prompt, name) + "\n" + written
    body = written.lstrip("\n")
    if body and not body[0].isspace():  # the first line lost its indent, as chat models' answers do
        body = f"    {body}"
    return prompt.rstrip("\n") + "\n" + body


def _head(prompt: str, name: str) -> str:
    """What stands before the function: imports and helpers."""
    definitions = re.finditer(rf"^(async\s+)?def\s+{name}\b", prompt, re.MULTILINE)
    starts = [found.start() for found in definitions]
    return prompt[: starts[-1]] if starts else ""


def _judge(text: str, gold: tuple[str, str, str]) -> bool:
    prompt, name, test = gold
    tests = f"{_head(prompt, name)}\n{test}"
    return passes_tests(_program(text, prompt, name), name, tests, seconds=_SECONDS)


BENCHMARK = Benchmark(
    "humaneval",
    "a Python function from its docstring",
    "prompt, canonical_solution, test, entry_point",
    "openai/openai_humaneval",
    ("openai_humaneval/test-00000-of-00001.parquet",),
    {
        "complete": Template(
            "Complete the following Python function. Reply with the whole function in a code block.\n\n```python\n{prompt}\n```"
        ),
        "script": Template(
            "Write a solution to the following problem and make sure that it passes the tests:\n```python\n{prompt}\n```"
        ),
        "base": Template(
            "{prompt}\n", ("\nclass ", "\ndef ", "\n#", "\nif __name__", "\nprint(", "\n```")
        ),
    },
    _questions,
    _judge,
    delimiter="\n",
)
