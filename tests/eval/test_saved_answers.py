"""Answers saved next to an output until it is written; prompts that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.eval import compare, grid
from creditdecoding.eval import evaluate as runner
from creditdecoding.eval.evaluate import answer_items, evaluate, requests_for
from creditdecoding.eval.saved_answers import save_answers
from creditdecoding.eval.sweep import parse_curves
from creditdecoding.lm import LM, load
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import Item, distinct_items
from creditdecoding.trace import Event, FinishEvent
from tests.helpers.cli import run_credit
from tools.make_checkpoint import make

CONFIG = GenerationConfig(decoder="fixed:k=2", gen_length=8, block_length=4)
TIMES = ("seconds", "outside_share", "tps")
OPTIONS = ["--gen-length", "8", "--block-length", "4", "--batch-size", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random checkpoint."""
    return str(make("llada", tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def lm(model: str) -> LM:
    return load(model, EngineConfig(batch_size=2, device="cpu", threads=1))


class Killed(BaseException):
    """As good as SIGKILL between two answers."""


def killed_after(count: int) -> Callable[[Event], None]:
    """What is shown events until so many rows have ended."""
    ended: list[int] = []

    def on_event(event: Event) -> None:
        ended.extend([1] * isinstance(event, FinishEvent))
        if len(ended) == count:
            raise Killed

    return on_event


def numbers(report: dict[str, Any]) -> dict[str, Any]:
    """A report without times."""
    timeless = {name: value for name, value in report.items() if name not in TIMES}
    return {
        **timeless,
        "families": {name: {**family, "tps": 0} for name, family in timeless["families"].items()},
    }


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 8, 11, 19])
def test_an_evaluation_that_is_killed_twice_ends_as_an_undisturbed_one(
    count: int, lm: LM, tmp_path: Path
) -> None:
    tasks = load_tasks("algebra,facts")
    undisturbed = evaluate(lm, tasks, CONFIG, 10)
    out = tmp_path / "e.json"
    for _ in range(2):
        with pytest.raises(Killed), save_answers(out, {}) as kept:
            assert kept is not None
            evaluate(
                lm,
                tasks,
                CONFIG,
                10,
                on_event=killed_after(min(count, 20 - kept.count)),
                saved=kept.of_setting(""),
            )
        with open(tmp_path / "e.json.partial" / "samples.0.jsonl", "ab") as file:
            file.write(b'{"cell": "", "it')
    rest: list[Event] = []
    with save_answers(out, {}) as kept:
        assert kept is not None and kept.count == min(20, 2 * count)
        again = evaluate(lm, tasks, CONFIG, 10, on_event=rest.append, saved=kept.of_setting(""))
    assert sum(isinstance(event, FinishEvent) for event in rest) == 20 - min(20, 2 * count)
    assert numbers(again.to_json()) == numbers(undisturbed.to_json())
    assert [sample.to_json() for sample in again.samples] == [
        sample.to_json() for sample in undisturbed.samples
    ]
    assert [sample.completion.trace.tokens for sample in again.samples] == [
        sample.completion.trace.tokens for sample in undisturbed.samples
    ]
    assert not out.with_name("e.json.partial").exists()


def test_the_chunks_of_a_run_are_one_run(lm: LM) -> None:
    """Passes and times of a later chunk follow those of an earlier one."""
    tasks = load_tasks("facts")
    items = distinct_items(tasks[0], "test", 0, 10)
    samples = answer_items(lm, tasks, items, CONFIG)
    forwards = {step.forward for sample in samples for step in sample.completion.trace.steps}
    assert forwards == set(range(len(forwards)))
    size = runner.CHUNK_BATCHES * lm.batch_size
    ends = sorted(
        sample.completion.trace.finish.seconds
        for sample in samples
        if sample.completion.trace.finish
    )
    begun = sorted(
        sample.completion.trace.finish.began for sample in samples if sample.completion.trace.finish
    )
    assert begun[size] >= ends[size - 1]
    assert all(sample.completion.trace.tokenizer is not None for sample in samples)


def test_other_settings_are_refused(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "e.json"
    items = ["--tasks", "facts", "--limit", "6", "--decoder", "fixed:k=2"]
    command = ["eval", "-m", model, *items, "--out", out, *OPTIONS]
    with monkeypatch.context() as patch:
        patch.setattr(runner, "score_answer", fail_at(4, runner.score_answer))
        with pytest.raises(Killed):
            run_credit(command)
    assert not out.exists()
    for changed, difference in (
        (["--decoder", "fixed:k=3"], "generation.decoder"),
        (["--gen-length", "12"], "generation.gen_length: 8 there, 12 here"),
        (["--limit", "7"], "items.count: 6 there, 7 here"),
        (["--batch-size", "3"], "engine.batch_size"),
        (["--raw"], "raw: false there, true here"),
    ):
        done = run_credit([*command, *changed])
        assert done.status == 2 and done.stderr.count("\n") == 1
        assert difference in done.stderr and "delete the folder to start again" in done.stderr
    assert run_credit(command).status == 0
    assert len(json.loads(out.read_text())["samples"]) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]


def fail_at(count: int, judge: Callable[..., Any]) -> Callable[..., Any]:
    """A judge that is killed at its n-th verdict."""
    calls: list[int] = []

    def judged(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == count:
            raise Killed
        return judge(*arguments)

    return judged


def test_lengths_continue(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s.json"
    items = ["--tasks", "facts", "--limit", "3", "--buckets", "2"]
    sweeps = ["--sweeps", "answer block", "--block-lengths", "4 8"]
    decoders = ["--decoders", "fixed:k=2 threshold", *OPTIONS]
    command = ["lengths", "-m", model, *items, *sweeps, *decoders, "--json"]
    undisturbed = run_credit(command)
    with monkeypatch.context() as patch:
        patch.setattr(grid, "score_answer", fail_at(9, grid.score_answer))
        with pytest.raises(Killed):
            run_credit([*command, "--out", out])
    continued = run_credit([*command, "--out", out])
    assert continued.status == 0, continued.stderr
    assert continued.stdout == undisturbed.stdout
    assert json.loads(out.read_text()) == json.loads(undisturbed.stdout)


# Prompts that do not fit


@pytest.fixture(scope="module")
def tight(lm: LM) -> tuple[int, list[Item], int]:
    """A gen_length for which the longest of some items does not fit, the items, and the place of
    that one.
    """
    items = distinct_items(load_tasks("algebra")[0], "test", 0, 8)
    lengths = [row.answer_start for row in requests_for(lm, items, CONFIG)]
    longest = max(range(8), key=lengths.__getitem__)
    assert lengths.count(lengths[longest]) == 1
    return lm.max_length - lengths[longest] + 1, items, longest


def test_an_item_that_does_not_fit_is_named_before_any_work(
    tight: tuple[int, list[Item], int], model: str, tmp_path: Path
) -> None:
    gen_length, _, longest = tight
    command_options = [
        "-m",
        model,
        "--tasks",
        "algebra",
        "--limit",
        "8",
        "--threads",
        "1",
        "--gen-length",
    ]
    done = run_credit(["eval", *command_options, str(gen_length)])
    assert (
        done.status == 2
        and f"item {longest + 1} of algebra: prompt and gen_length do not fit" in done.stderr
    ), done.stderr
    assert done.stderr.count("\n") == 1
    for command in (
        ["tune"],
        ["lengths"],
        ["pav", "collect", tmp_path / "s", "--temperature", "1"],
    ):
        done = run_credit([*command, *command_options, "256"])
        assert (
            done.status == 2
            and "item 1 of algebra: prompt and gen_length do not fit" in done.stderr
        ), done.stderr


def test_a_comparison_names_it_before_any_work_too(
    tight: tuple[int, list[Item], int], model: str, tmp_path: Path
) -> None:
    gen_length, _, longest = tight
    config = GenerationConfig(gen_length=gen_length)
    plan = compare.ComparePlan(
        model,
        "algebra",
        ("plain",),
        tuple(parse_curves("fixed")),
        2,
        8,
        config,
        EngineConfig(device="cpu"),
    )
    with pytest.raises(
        OptionError, match=f"test item {longest + 1} of algebra: prompt and gen_length do not fit"
    ):
        compare.run(plan, tmp_path / "run")
    assert not any(path.stat().st_size for path in (tmp_path / "run").glob("samples*"))


def test_items_that_do_not_fit_are_left_out_and_counted(
    tight: tuple[int, list[Item], int], lm: LM, model: str, tmp_path: Path
) -> None:
    gen_length, _, longest = tight
    config = GenerationConfig(decoder="fixed:k=64", gen_length=gen_length, block_length=gen_length)
    report = evaluate(lm, load_tasks("algebra"), config, 8, skip_too_long=True).to_json()
    assert (report["items"], report["skipped"], report["skipped_items"]) == (
        7,
        1,
        {"algebra": [longest + 1]},
    )
    with pytest.raises(OptionError, match="no item fits"):
        evaluate(
            lm,
            load_tasks("algebra"),
            GenerationConfig(gen_length=lm.max_length),
            8,
            skip_too_long=True,
        )
    flags = [
        "--decoder",
        "fixed:k=64",
        "--gen-length",
        str(gen_length),
        "--block-length",
        str(gen_length),
        "--skip-too-long",
    ]
    done = run_credit(["eval", "-m", model, "--tasks", "algebra", "--limit", "8", *flags, "--json"])
    assert json.loads(done.stdout)["skipped"] == 1
    assert "skipped" not in evaluate(lm, load_tasks("algebra"), CONFIG, 2).to_json()
