"""Counts agree with their nouns, in the helper and in what commands print."""

from __future__ import annotations

from creditdecoding.wording import count
from tests.helpers.cli import run_credit
from tests.helpers.toys import PROMPTS, requests_of, toy, traces_of


def test_a_count_agrees_with_its_noun() -> None:
    assert [count(n, "token") for n in (0, 1, 2000)] == ["0 tokens", "1 token", "2,000 tokens"]
    assert [count(n, "pass", "passes") for n in (1, 2)] == ["1 pass", "2 passes"]
    assert [count(bound, "point") for bound in (1.0, 0.5)] == ["1 point", "0.5 points"]


def test_one_token_takes_one_forward_pass() -> None:
    trace, *_ = traces_of(toy(), requests_of(PROMPTS[:1], gen_length=1), 1)
    assert trace.summary.startswith("1 token in 1 forward pass (1.00 a pass), ")


def test_commands_print_one_of_a_thing() -> None:
    done = run_credit(["generate", "2+2", "--gen-length", "1"])
    assert "1 token in 1 forward pass (" in done.stderr, done
