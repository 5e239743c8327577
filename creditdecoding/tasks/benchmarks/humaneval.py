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
    prompt, name = record["prompt"], record["entry_point"]
    test = record["test"]
    if "def check(" not in test or not str(name).isidentifier():
        raise ValueError("the test has no check function")
    yield Question(
        {"prompt": prompt.strip("\n")},
        f"```python\n{prompt}{record['canonical_solution']}\n```",
        (prompt, name, test),
    )


def _program(text: str, prompt: str, name: str) -> str:
    """The answer as a whole program: the prompt's head and a function of its own, or the prompt
    and the rest of its function.
    """
    answer = code(text, defines(name))
    if re.search(defines(name), answer, re.MULTILINE):
        return _head(prompt, name) + "\n" + answer
    body = answer.lstrip("\n")
    if body and not body[0].isspace():  # answers of chat models lose the first line's indent
        body = f"    {body}"
    return prompt.rstrip("\n") + "\n" + body


def _head(prompt: str, name: str) -> str:
    """The prompt before the function: imports and helpers."""
    definitions = re.finditer(rf"^(async\s+)?def\s+{name}\b", prompt, re.MULTILINE)
    starts = [match.start() for match in definitions]
    return prompt[: starts[-1]] if starts else ""


def _is_correct(text: str, gold: tuple[str, str, str]) -> bool:
    prompt, name, test = gold
    tests = f"{_head(prompt, name)}\n{test}"
    return passes_tests(_program(text, prompt, name), name, tests, seconds=_SECONDS)


BENCHMARK = Benchmark(
    name="humaneval",
    title="a Python function from its docstring",
    record_format="prompt, canonical_solution, test, entry_point",
    repo="openai/openai_humaneval",
    files=("openai_humaneval/test-00000-of-00001.parquet",),
    templates={
        "complete": Template(
            "Complete the following Python function. Reply with the whole function in a code block."
            "\n\n```python\n{prompt}\n```"
        ),
        "script": Template(
            "Write a solution to the following problem and make sure that it passes the tests:\n"
            "```python\n{prompt}\n```"
        ),
        "base": Template(
            "{prompt}\n", ("\nclass ", "\ndef ", "\n#", "\nif __name__", "\nprint(", "\n```")
        ),
    },
    questions=_questions,
    is_correct=_is_correct,
    step_delimiter="\n",
)
