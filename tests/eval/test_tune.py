"""`credit tune`: settings in a fixed order, the verdict, items, the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from creditdecoding.decoders import load as load_decoder
from creditdecoding.errors import OptionError
from creditdecoding.eval import tune as tuning
from creditdecoding.eval.tune import (
    FAILURES,
    VERDICTS,
    LossBound,
    TuneResult,
    draw_items,
    settings_in_order,
)
from creditdecoding.tasks import custom, load_tasks
from creditdecoding.tasks.base import DefaultLimit, distinct_items
from tests.helpers.cli import run_credit


class Answers:
    """Stands in for a model: each setting's right and wrong answers."""

    geometry = None

    def __init__(self, monkeypatch: pytest.MonkeyPatch, right: dict[str, Sequence[bool]]) -> None:
        self.decoders: list[str] = []

        def answer(lm: Any, tasks: Any, items: Any, config: Any, *rest: Any) -> list[Any]:
            self.decoders.append(config.decoder)
            completion = SimpleNamespace(nfe=10 - len(self.decoders))
            return [
                SimpleNamespace(right=is_right, completion=completion)
                for is_right in right[config.decoder]
            ]

        monkeypatch.setattr(tuning, "answer_items", answer)
        monkeypatch.setattr(tuning, "check_supported", lambda *arguments: None)

    def tune(self, decoder: str, count: int) -> TuneResult:
        bound = LossBound(10.0, 0.9)
        return tuning.tune(self, [], [None] * count, decoder, bound)  # type: ignore[arg-type,list-item]


def test_it_stops_at_the_first_failure_and_keeps_the_last_that_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    all_right, half_right = [True] * 60, [True] * 30 + [False] * 30
    right = {
        "fixed:k=1": all_right,
        "threshold:threshold=0.9": all_right,
        "threshold:threshold=0.8": half_right,
        "threshold:threshold=0.7": all_right,
    }
    model = Answers(monkeypatch, right)
    result = model.tune("threshold:threshold=0.7|0.9|0.8", 60)  # the order given does not matter
    assert model.decoders == ["fixed:k=1", "threshold:threshold=0.9", "threshold:threshold=0.8"]
    assert result.chosen == "threshold:threshold=0.9"
    assert result.untested == ("threshold:threshold=0.7",)
    assert result.failure == "loses_too_much" and result.needed is None
    assert result.lines()[1:] == [VERDICTS["certified"], FAILURES["loses_too_much"]]


def test_too_few_items_are_said_with_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    right = dict.fromkeys(["fixed:k=1", "fixed:k=2", "fixed:k=3"], [True] * 9)
    result = Answers(monkeypatch, right).tune("fixed:k=2|3", 9)
    report = result.to_json()
    assert result.chosen == "fixed:k=1" and report["certified"] is None
    assert report["too_few"] is True and report["items_needed"] == 22  # 0.9^22 = 0.098
    assert result.lines()[1:3] == [VERDICTS["none"], FAILURES["too_few"]]
    assert result.lines()[-1].endswith(": 22.")


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
    items = draw_items(pocket, "dev", 30)
    assert (
        len(items) == 60
        and all(item.split == "dev" for item in items)
        and items == draw_items(pocket, "dev", 30) != draw_items(pocket, "dev", 30, 1)
    )
    assert len({item.task for item in items}) == 2


def test_questions_of_your_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"prompt": "2+2? {x}", "answer": 1234}\n'
        '{"prompt": "Capital?", "answer": ["Lima", "Ciudad de los Reyes"]}\n'
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
    assert custom.normalize_answer('"A, b!"') == "a, b"
    assert len(draw_items([family], "dev", 0)) == 2
    for bad, match in (
        ('{"prompt": "a"}', "1 of 1 without an answer"),
        ('{"prompt": "", "answer": "b"}', "prompt is not"),
        ('{"prompt": "a", "answer": []}', "answer"),
    ):
        path.write_text(bad)
        with pytest.raises(OptionError, match=match):
            load_tasks(str(path))


def test_a_list_shorter_than_the_default_is_taken_whole(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "2+2?", "answer": 4}\n{"prompt": "3+3?", "answer": 6}\n')
    tasks = load_tasks(str(path))
    assert len(draw_items(tasks, "dev", DefaultLimit(60))) == 2
    with pytest.raises(OptionError, match="too large"):
        draw_items(tasks, "dev", 60)


SMALL = ["tune", "--tasks", "facts", "--limit", "4", "--threads", "1"]


@pytest.mark.slow
def test_the_command_writes_a_decoder(tmp_path: Path) -> None:
    out = tmp_path / "tuned.yaml"
    tried = [*SMALL, "--decoder", "threshold:threshold=0.999|0.9"]
    done = run_credit([*tried, "--bound", "60", "--out", out, "--json"])
    report = json.loads(done.stdout)
    assert report["items"] == 4 and report["bound"] == 60
    assert report["tested"][0]["setting"] == "threshold:threshold=0.999"
    assert load_decoder(str(out))[0] == load_decoder(report["chosen"])[0]
    assert "Bound: 60 points with 90 % confidence" in out.read_text()


@pytest.mark.slow
def test_the_table_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = run_credit([*SMALL, "--decoder", "fixed:k=2|4", "--bound", "1"])
    assert VERDICTS["none"] in done.stdout and "…" not in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if line.startswith(" fixed:k=2")]
    assert row.rstrip().endswith(" no")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--bound", "0"], "bound is out of range"),
        (["--bound", "101"], "bound is out of range"),
        (["--confidence", "1"], "confidence is out of range"),
        (["--confidence", "nan"], "confidence is out of range"),
        (["--decoder", "thrift:threshold=0.9"], "no sweep"),
        (["--split", "deb"], "unknown split"),
        (["--out", "no/such/folder/x.yaml"], "does not exist"),
        (["--limit", "0"], "generated without end"),
    ],
)
def test_bad_options_are_one_line(flags: list[str], expected: str) -> None:
    done = run_credit(["tune", "--tasks", "facts", *flags])
    assert done.status == 2 and expected in done.stderr and done.stderr.count("\n") == 1
