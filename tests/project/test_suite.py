"""The suite itself: no assertion reads a clock, nothing sleeps to wait, and what `make` runs where."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
CLOCKS = {"time", "perf_counter", "monotonic", "thread_time", "process_time", "perf_counter_ns"}
POLLING = {"tests/tasks/test_confinement.py"}
"""Tests that look again and again whether a process of the system is gone; nothing can tell them."""


def time_calls(tree: ast.AST) -> Iterator[str]:
    """Functions of the module `time` that code calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            module = node.func.value
            if isinstance(module, ast.Name) and module.id == "time":
                yield node.func.attr


def clock_assertions(source: str) -> list[int]:
    """Lines of assertions that read a clock, be it by a name that was given its value."""
    tree = ast.parse(source)
    readings = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and CLOCKS & set(time_calls(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
        and (
            CLOCKS & set(time_calls(node.test))
            or readings & {name.id for name in ast.walk(node.test) if isinstance(name, ast.Name)}
        )
    ]


def sources() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def test_no_assertion_reads_a_clock() -> None:
    assert {name: lines for name, source in sources() if (lines := clock_assertions(source))} == {}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import time\nassert time.monotonic() < 5", [2]),
        ("import time\nbegan = time.perf_counter()\nassert took < began + 8", [3]),
        ("import time\ntime.sleep(1)\nassert ready", []),
    ],
)
def test_an_assertion_on_a_clock_is_found(source: str, lines: list[int]) -> None:
    assert clock_assertions(source) == lines


def test_nothing_sleeps_to_wait() -> None:
    sleeping = {name for name, source in sources() if "sleep" in time_calls(ast.parse(source))}
    assert sleeping == POLLING


def makefile_rules() -> dict[str, tuple[list[str], str]]:
    """Targets of the Makefile with their prerequisites and their commands."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    rules = re.findall(r"^([\w-]+):(.*)\n((?:\t.*\n)*)", text, re.MULTILINE)
    return {target: (needed.split(), commands) for target, needed, commands in rules}


def test_only_test_all_and_test_network_need_the_network() -> None:
    rules = makefile_rules()
    for target in ("test", "test-quick", "test-lowest", "test-latest"):
        assert "not network" in rules[target][1], target
    assert "not slow" in rules["test-quick"][1]
    assert rules["test-all"][0] == ["test", "test-network"]
    assert "-m network" in rules["test-network"][1]


def test_the_demo_installs_the_core_alone() -> None:
    lines = (ROOT / "requirements" / "core.txt").read_text(encoding="utf-8").splitlines()
    names = {Requirement(line).name for line in lines if not line.startswith("#")}
    assert makefile_rules()["demo"][0] == ["$(CORE)"]
    assert len(names) < 60
    assert not names & {"ray", "playwright", "schemathesis", "mypy", "pytest", "fastapi", "peft"}
