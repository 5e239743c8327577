"""HumanEval: a Python function from its docstring (Chen et al., 2021), judged by running its tests in the sandbox."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import code
from creditdecoding.tasks.sandbox import run_python

_SECONDS = 10


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    prompt, name, test = record["prompt"], record["entry_point"], record["test"]
    if "def check(" not in test or not str(name).isidentifier():
        raise ValueError("the test has no check function")
    yield Question({"prompt": prompt.strip("\n")}, f"```python\n{prompt}{record['canonical_solution']}\n```", (prompt, name, test))


def _program(text: str, prompt: str, name: str) -> str:
    """The answer as a whole program: a function of its own after the prompt's head, or the rest of the prompt's function."""
    written = code(text)
    if re.search(rf"^(async\s+)?def\s+{name}\b", written, re.MULTILINE):
        return prompt[: prompt.rfind(f"def {name}")] + "\n" + written
    body = written.lstrip("\n")
    if body and not body[0].isspace():  # the first line lost its indent, as chat models' answers do
        body = f"    {body}"
    return prompt.rstrip("\n") + "\n" + body


def _judge(text: str, gold: tuple[str, str, str]) -> bool:
    prompt, name, test = gold
    word = secrets.token_hex(8)  # not to be guessed, so not to be printed by the answer itself
    outcome = run_python(f"{_program(text, prompt, name)}\n\n{test}\n\ncheck({name})\nprint({word!r})\n", seconds=_SECONDS)
    return outcome.ok and outcome.output.endswith(f"{word}\n")


BENCHMARK = Benchmark(
    "humaneval",
    "a Python function from its docstring",
    "prompt, canonical_solution, test, entry_point",
    "openai/openai_humaneval",
    ("openai_humaneval/test-00000-of-00001.parquet",),
    {
        "complete": Template("Complete the following Python function. Reply with the whole function in a code block.\n\n```python\n{prompt}\n```"),
        "script": Template("Write a solution to the following problem and make sure that it passes the tests:\n```python\n{prompt}\n```"),
        "base": Template("{prompt}\n", ("\nclass ", "\ndef ", "\n#", "\nif __name__", "\nprint(", "\n```")),
    },
    _questions,
    _judge,
    delimiter="\n",
)
