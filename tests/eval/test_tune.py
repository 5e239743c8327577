"""`credit tune`: a p-value that keeps its level, tests in a fixed order, a verdict in plain words."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creditdecoding.cli import main
from creditdecoding.decoders import load as decoder_of
from creditdecoding.errors import OptionError
from creditdecoding.eval import paired_test as risk
from creditdecoding.eval import tune as tuning
from creditdecoding.eval.paired_test import PairedCounts, items_needed, p_value
from creditdecoding.eval.tune import LossBound, TuneResult, draw_items, settings_in_order
from creditdecoding.tasks import custom as questions
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import distinct_items

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("gain", [0.0, 0.02, 0.2, 0.4])
@pytest.mark.parametrize(("items", "bound"), [(60, 0.05), (20, 0.1)])
def test_at_the_edge_of_the_hypothesis_the_level_is_kept(
    gain: float, items: int, bound: float
) -> None:
    """At a loss of exactly the bound, however often answers change, no more than a tenth of the
    draws is certified at 0.9.
    """
    rng = np.random.default_rng(5)
    table: dict[tuple[int, int], float] = {}
    rejected = []
    for lost, won, _ in rng.multinomial(
        items, [gain + bound, gain, 1 - 2 * gain - bound], size=2000
    ).tolist():
        if (lost, won) not in table:
            table[lost, won] = (
                p_value(PairedCounts(items, lost, won), bound)
                if lost - won < items * bound
                else 1.0
            )
        rejected.append(table[lost, won] <= 0.1)
    assert np.mean(rejected) <= 0.1 + 3 * (0.1 * 0.9 / 2000) ** 0.5


def test_without_any_change_it_is_the_binomial_one() -> None:
    assert p_value(PairedCounts(230, 0, 0), 0.01) == pytest.approx(0.99**230, rel=0.006)
    assert (
        p_value(PairedCounts(50, 0, 0), 0.01) > 0.5 and p_value(PairedCounts(60, 3, 0), 0.05) == 1.0
    )


@settings(max_examples=15, deadline=None)
@given(
    items=st.integers(5, 60),
    lost=st.integers(0, 5),
    won=st.integers(0, 5),
    bound=st.sampled_from([0.02, 0.1, 0.4]),
)
def test_more_losses_are_less_evidence_and_gains_are_more(
    items: int, lost: int, won: int, bound: float
) -> None:
    lost, won = min(lost, items // 3), min(won, items // 3)
    p = p_value(PairedCounts(items, lost, won), bound)
    assert 0 < p <= 1
    assert p_value(PairedCounts(items, lost + 1, won), bound) >= p * 0.99
    assert p_value(PairedCounts(items, lost, won + 1), bound) <= p * 1.01


def test_items_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert items_needed(PairedCounts(20, 0, 0), 0.05, 0.1) == pytest.approx(
        45, abs=1
    )  # 0.95^45 = 0.0994
    count = items_needed(PairedCounts(60, 1, 0), 0.05, 0.1)
    assert count is not None and p_value(
        PairedCounts(60, 1, 0).scaled(count), 0.05
    ) <= 0.1 < p_value(PairedCounts(60, 1, 0).scaled(count - 10), 0.05)
    monkeypatch.setattr(risk, "MOST_ITEMS", 300)
    assert items_needed(PairedCounts(100, 50, 41), 0.0901, 0.1) is None


class Answers:
    """Stands for a model: each setting's right and wrong answers."""

    geometry = None

    def __init__(self, monkeypatch: pytest.MonkeyPatch, right: dict[str, Sequence[bool]]) -> None:
        self.asked: list[str] = []

        def answered(
            lm: Any, families: Any, items: Any, config: Any, *rest: Any
        ) -> tuple[Any, ...]:
            self.asked.append(config.decoder)
            completion = type("C", (), {"nfe": 10 - len(self.asked)})()
            return tuple(
                type("S", (), {"right": bool(each), "completion": completion})()
                for each in right[config.decoder]
            )

        monkeypatch.setattr(tuning, "answer_items", answered)
        monkeypatch.setattr(tuning, "check_supported", lambda *given: None)

    def tune(self, decoder: str, count: int, bound: float = 10.0) -> TuneResult:
        return tuning.tune(self, [], [None] * count, decoder, LossBound(bound, 0.9))  # type: ignore[arg-type,list-item]


def test_it_stops_at_the_first_failure_and_keeps_the_last_that_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every, half = [True] * 60, [True] * 30 + [False] * 30
    right = {
        "fixed:k=1": every,
        "threshold:threshold=0.9": every,
        "threshold:threshold=0.8": half,
        "threshold:threshold=0.7": every,
    }
    model = Answers(monkeypatch, right)
    found = model.tune(
        "threshold:threshold=0.7|0.9|0.8", 60
    )  # the order given does not matter for the main knob
    assert model.asked == ["fixed:k=1", "threshold:threshold=0.9", "threshold:threshold=0.8"]
    assert found.chosen == "threshold:threshold=0.9" and found.untested == (
        "threshold:threshold=0.7",
    )
    text = " ".join(found.words())
    assert (
        "loses at most 10 points on items like these with 90 % confidence" in text
        and "it loses too much" in text
        and found.needed is None
    )


def test_too_few_data_are_said_with_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Answers(
        monkeypatch, dict.fromkeys(["fixed:k=1", "fixed:k=2", "fixed:k=3"], [True] * 9)
    ).tune("fixed:k=2|3", 9)
    assert (
        found.chosen == "fixed:k=1"
        and found.to_json()["certified"] is None
        and found.to_json()["too_few"] is True
    )
    assert found.needed == 22  # 0.9^22 = 0.098
    assert (
        "stay with standard decoding" in found.words()[0]
        and "too few: about 22 items" in found.words()[1]
    )


def test_of_all_certified_settings_none_is_wrong_more_often_than_promised() -> None:
    """Settings of growing loss tried on the same draws: how often any certified one loses more than
    the bound.
    """
    rng, wrong, table = np.random.default_rng(1), 0, {}
    for _ in range(400):
        lost = rng.random(60)
        for share in (0.0, 0.02, 0.1001, 0.12, 0.2):
            count = int((lost < share).sum())
            if count not in table:
                table[count] = p_value(PairedCounts(60, count, 0), 0.1)
            if table[count] > 0.1:
                break
            if share > 0.1:
                wrong += 1
                break
    assert wrong / 400 <= 0.1 + 3 * (0.1 * 0.9 / 400) ** 0.5


def test_settings_go_from_safe_to_fast() -> None:
    assert (
        settings_in_order("thrift")[0] == "thrift:threshold=0.999"
        and settings_in_order("thrift")[-1] == "thrift:threshold=0.8"
    )
    assert (
        settings_in_order("fixed") == ("fixed:k=2", "fixed:k=3", "fixed:k=4")
        and settings_in_order("factor")[0] == "factor:factor=0.01"
    )
    assert settings_in_order("thrift:leap=9|5") == ("thrift:leap=9", "thrift:leap=5")
    for bad in ("thrift:threshold=0.9", "thrift credit", "fixed:k=1"):
        with pytest.raises(OptionError):
            settings_in_order(bad)


def test_items_are_drawn_from_the_mixture() -> None:
    pocket = load_tasks("algebra,facts")
    found = draw_items(pocket, "dev", 30)
    assert (
        len(found) == 60
        and all(item.split == "dev" for item in found)
        and found == draw_items(pocket, "dev", 30) != draw_items(pocket, "dev", 30, 1)
    )
    assert len({item.task for item in found}) == 2


def test_questions_of_your_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"prompt": "2+2? {x}", "answer": 1234}\n{"prompt": "Capital?", "answer": ["Lima", "Ciudad de los Reyes"]}\n'
    )
    family = load_tasks(str(path))[0]
    first, second = distinct_items(family, "test", 0, 0)
    assert first.prompt == "2+2? {x}"
    assert (
        family.score("So it is.\nAnswer: 1,234.", first)
        and family.score(" 1234 ", first)
        and not family.score("12345", first)
    )
    assert (
        family.score("lima", second)
        and family.score("**Ciudad de  los Reyes**", second)
        and not family.score("Lima or Rome", second)
    )
    assert questions.normalize_answer('"A, b!"') == "a, b"
    assert len(draw_items([family], "dev", 0)) == 2
    for bad, match in (
        ('{"prompt": "a"}', "no 'answer'"),
        ('{"prompt": "", "answer": "b"}', "prompt is not"),
        ('{"prompt": "a", "answer": []}', "answer"),
    ):
        path.write_text(bad)
        with pytest.raises(OptionError, match=match):
            load_tasks(str(path))


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["credit", "tune", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_the_command_writes_a_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, flags = (
        tmp_path / "tuned.yaml",
        [
            "--tasks",
            "facts",
            "--limit",
            "4",
            "--decoder",
            "threshold:threshold=0.999|0.9",
            "--threads",
            "1",
        ],
    )
    assert (
        call(
            [*flags, "--bound", "60", "--confidence", "0.9", "--out", str(out), "--json"],
            monkeypatch,
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (
        found["items"] == 4
        and found["bound"] == 60
        and found["tested"][0]["setting"] == "threshold:threshold=0.999"
    )
    assert (
        decoder_of(str(out))[0] == decoder_of(found["chosen"])[0]
        and found["words"][0] in out.read_text()
    )
    assert call([*flags, "--bound", "1"], monkeypatch) == 0
    assert "stay with standard decoding" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--bound", "0"], "bound is out of range"),
        (["--bound", "101"], "bound is out of range"),
        (["--confidence", "1"], "confidence is out of range"),
        (["--confidence", "nan"], "confidence is out of range"),
        (["--decoder", "thrift:threshold=0.9"], "no sweep"),
        (["--split", "deb"], "unknown split"),
        (["--out", "no/such/folder/x.yaml"], "not there"),
        (["--limit", "0"], "no end of them"),
    ],
)
def test_bad_options_are_refused(
    flags: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["--tasks", "facts", *flags], monkeypatch) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_words_without_a_failure() -> None:
    best = tuning.SettingResult("a", PairedCounts(100, 0, 0), 2.0, 90.0, 0.01, True)
    assert TuneResult(LossBound(), 100, 4.0, 90.0, (best,), (), None).words() == [
        "a loses at most 1 points on items like these with 90 % confidence, and takes 2.00 times fewer passes than standard decoding."
    ]
