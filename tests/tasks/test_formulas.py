"""Formulas that take too long are different, in any thread, and the next one is judged as usual."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from creditdecoding.errors import CreditError
from creditdecoding.tasks.benchmarks import formulas
from creditdecoding.tasks.benchmarks.formulas import FormulaJudge

pytest.importorskip("math_verify", reason="the extra eval is not installed")
pytestmark = pytest.mark.slow

ENDLESS = r"$\boxed{9^{9^{9^9}} - 9^{9^{9^8}}}$"


def test_a_formula_that_takes_too_long_is_different_in_any_thread() -> None:
    judge = FormulaJudge(seconds=1)
    with ThreadPoolExecutor(2) as pool:
        first = list(pool.map(judge.equal, ["$1$", r"$\frac{1}{2}$"], [ENDLESS, "$0.5$"]))
    assert first == [False, True]
    assert judge.equal("$1$", ENDLESS) is False
    assert judge.equal("$x^2+2x+1$", "$(x+1)^2$") is True


def test_a_judge_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not a wrong answer."""
    monkeypatch.setattr(formulas, "_CHILD", formulas._CHILD.with_name("nowhere.py"))
    with pytest.raises(CreditError, match="ended with status 1"):
        FormulaJudge().equal("$1$", "$2$")
