"""Predictions that are kept: a run that fails on the way continues, and computes nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from creditdecoding.errors import OptionError
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.saved_predictions import (
    STATES_A_PART,
    count_parts,
    save_predictions,
)

STATES = [PartialAnswer((7,), (number,), (1,)) for number in range(2 * STATES_A_PART + 5)]


class CountingJudge:
    """Q is a function of the state; fails after `lives` parts."""

    sequences = 0

    def __init__(self, lives: int) -> None:
        self.lives = lives
        self.judged: list[PartialAnswer] = []

    def q(self, states: Sequence[PartialAnswer]) -> Tensor:
        self.lives -= 1
        if self.lives < 0:
            raise KeyboardInterrupt
        self.judged += states
        return torch.tensor([state.written[0] / 1000 for state in states])


def predict(out: Path | None, judge: CountingJudge, kind: str = "one") -> list[float]:
    with save_predictions(out, {"kind": kind}) as saved:
        return saved.predict("judge", judge, STATES, lambda: None)


def test_a_run_that_was_stopped_computes_only_the_rest(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    stopped, again, alone = CountingJudge(2), CountingJudge(9), CountingJudge(9)
    with pytest.raises(KeyboardInterrupt):
        predict(out, stopped)
    assert (tmp_path / "report.json.partial").is_dir()
    with pytest.raises(OptionError, match="other settings"):
        predict(out, again, kind="two")
    assert predict(out, again) == predict(None, alone)
    assert [*stopped.judged, *again.judged] == alone.judged == STATES
    assert not [*tmp_path.iterdir()]


def test_parts_cover_all_states() -> None:
    counts = [count_parts(states) for states in (0, 1, STATES_A_PART, STATES_A_PART + 1)]
    assert counts == [0, 1, 1, 2]
