"""The package stays readable: short lines, small functions, one idea a line, unique class names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools.density import (
    MOST_TOKENS,
    ROOT,
    Density,
    functions_of,
    is_nested_conditional,
    is_packed,
    measure,
    token_lines,
    vague_names,
)

MOST_TOKENS_A_LINE = 7.0
COMMANDS = {
    "cli/adapt.py:adapt",
    "cli/analyse.py:analyse",
    "cli/compare.py:compare",
    "cli/eval.py:evaluate",
    "cli/lengths.py:lengths",
    "cli/pav/collect.py:collect",
    "cli/pav/compare.py:compare",
    "cli/pav/measure.py:measure",
    "cli/pav/provers.py:provers",
    "cli/pav/rl.py:rl",
    "cli/pav/train.py:train",
    "cli/search.py:search",
    "cli/speedups.py:speedups",
    "cli/trace.py:trace",
    "cli/train.py:train",
    "cli/tune.py:tune",
}
"""Commands may exceed the limit: each option is declared in the signature."""
SEQUENCES = {
    "cli/analyse.py:print_calibration",
    "cli/search.py:_search_tasks",
    "decoding/block_batch.py:_statistics",
    "decoding/block_batch.py:predict",
    "decoding/engine.py:__init__",
    "decoding/request.py:new_request",
    "decoding/step.py:_event",
    "decoding/step.py:denoise_step",
    "eval/compare_report.py:compare_report",
    "eval/evaluate.py:answer_items",
    "eval/grid.py:run_grid",
    "eval/lengths.py:_point",
    "eval/paired_test.py:p_value",
    "eval/traces/report.py:_steps",
    "eval/tune.py:tune",
    "integrations/external_model.py:wrap",
    "integrations/transformers.py:custom_generate",
    "integrations/transformers_call.py:_same",
    "ops/head_kernel.py:_mass_kernel",
    "pav/data/strategies.py:first_pit",
    "pav/rl/train.py:__init__",
    "pav/rl/train.py:_backward",
    "pav/rl/train.py:learn",
    "pav/search/beam.py:beam",
    "pav/search/compare.py:run",
    "pav/search/report.py:compare_curves",
    "pav/search/report.py:search_curves",
    "pav/verifier/fit.py:__init__",
    "pav/verifier/metrics.py:measure",
    "pav/verifier/provers.py:compare_provers",
    "pav/verifier/provers.py:spread",
    "pav/verifier/surprisal.py:token_surprisal",
}
"""Straight sequences without a branch to split at: wide signatures, keyword constructors, one formula
or one algorithm of a paper. None may grow beyond LONGEST_SEQUENCE, and the list may only shrink.
"""
LONGEST_SEQUENCE = 450


@pytest.fixture(scope="module")
def package() -> Density:
    return measure(sorted((ROOT / "creditdecoding").rglob("*.py")))


def test_a_line_holds_few_tokens(package: Density) -> None:
    assert package.tokens_a_line <= MOST_TOKENS_A_LINE


def test_lines_are_short(package: Density) -> None:
    assert package.long_lines == []


def test_no_conditional_expression_holds_another(package: Density) -> None:
    assert package.nested_conditionals == []


def test_no_assignment_packs_more_than_two_values(package: Density) -> None:
    assert package.packed_assignments == []


def test_class_names_are_unique(package: Density) -> None:
    assert package.repeated_classes == []


def test_functions_are_small(package: Density) -> None:
    large = {
        f"{function.path}:{function.name}".removeprefix("creditdecoding/"): function.tokens
        for function in package.large_functions
    }
    allowed = COMMANDS | SEQUENCES
    assert set(large) <= allowed, f"over {MOST_TOKENS} tokens: {sorted(set(large) - allowed)}"
    assert allowed <= set(large), f"no longer large, strike out: {sorted(allowed - set(large))}"
    assert max(large[name] for name in SEQUENCES) <= LONGEST_SEQUENCE


def test_tokens_are_names_operators_and_numbers(tmp_path: Path) -> None:
    text = '"""A docstring."""\n\n# a comment\ntotal = 1 + len("text")\n'
    assert token_lines(text) == [4] * 7


def test_a_function_counts_its_decorators_and_signature() -> None:
    text = "@cached\ndef double(n):\n    return n + n\n"
    (function,) = functions_of(ast.parse(text), "x.py", token_lines(text))
    assert (function.name, function.tokens) == ("double", 12)


@pytest.mark.parametrize(
    ("expression", "nested"),
    [("1 if a else 2", False), ("1 if a else 2 if b else 3", True), ("f(1 if a else 2)", False)],
)
def test_nested_conditionals_are_found(expression: str, nested: bool) -> None:
    tree = ast.parse(expression)
    assert any(is_nested_conditional(node) for node in ast.walk(tree)) is nested


def test_names_say_what_they_hold() -> None:
    """`given` of errors is an argument of the public classes."""
    vague = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for folder in ("creditdecoding", "tests", "tools", "experiments", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != ROOT / "creditdecoding" / "errors.py"
        for line, name in vague_names(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not vague, "say what these hold: " + ", ".join(vague)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("found = 1", ["found"]),
        ("def f(given, *, place=1): pass", ["given", "place"]),
        ("[each for each in x]", ["each"]),
        ("for mine, theirs in pairs: pass", ["mine", "theirs"]),
        ("class A:\n    chosen: str", []),
        ("f(given=1).found", []),
    ],
)
def test_vague_names_are_found(code: str, names: list[str]) -> None:
    assert sorted(name for _, name in vague_names(ast.parse(code))) == names


@pytest.mark.parametrize(
    ("statement", "packed"),
    [("a, b = 1, 2", False), ("a, b, c = 1, 2, 3", True), ("a, b, c = shape", False)],
)
def test_packed_assignments_are_found(statement: str, packed: bool) -> None:
    assert is_packed(ast.parse(statement).body[0]) is packed
