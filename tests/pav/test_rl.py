"""Policy gradient: rewards by arm, a tiny problem that it solves, a run that is killed, the summary
of arms, the command.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from creditdecoding import load
from creditdecoding.checkpoint import resolve_checkpoint
from creditdecoding.cli import main
from creditdecoding.config import GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.pav.rl import train as reinforce
from creditdecoding.pav.rl.options import BASELINES, TOKENS, RLConfig
from creditdecoding.pav.rl.policy_weights import cosine
from creditdecoding.pav.rl.report import (
    LearningCurve,
    run_specs,
    samples_to_reach,
    saving,
    smooth,
    student_interval,
    summary,
)
from creditdecoding.pav.rl.rewards import baseline, rewards
from creditdecoding.pav.rl.train import PolicyTraining, records
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.model import best_of
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import Item, Task
from tests.helpers.tiny_policy import CONFIG, IDS, WORDS, Tiny, every_draw, tiny_lm

pytestmark = pytest.mark.slow

Q = st.lists(st.floats(0, 1), min_size=1, max_size=6)
FAMILY = Task(
    "tiny",
    "tiny",
    lambda rng: Item("tiny", "go", "b.", "b.", (rng.random(),)),
    lambda text, item: text.startswith(item.gold),
    step_delimiter=".",
)
RL = RLConfig(
    arm="outcome",
    baseline="others",
    problems=2,
    samples=16,
    lr=0.2,
    iterations=15,
    eval_every=15,
    eval_limit=40,
    save_every=1,
    kl=0.0,
)


class Prefix:
    """A judge that knows the answer: a state on the way to it is worth more the further it is."""

    sequences = 0

    def q(self, states: Sequence[PartialAnswer]) -> Tensor:
        self.sequences += len(states)
        right = IDS[1:3]
        return torch.tensor(
            [
                0.3 * (1 + min(2, len(s.written)))
                if s.written[:2] == right[: len(s.written)]
                else 0.0
                for s in states
            ]
        )


def tiny_run(folder: Path, judge: Prefix | None = None, **changes: Any) -> PolicyTraining:
    folder.mkdir(exist_ok=True)
    return PolicyTraining(
        tiny_lm(Tiny(dtype=torch.float32, scale=0.3)),
        [FAMILY],
        CONFIG,
        dataclasses.replace(RL, **changes),
        judge,
        folder,
    )


@settings(deadline=None)
@given(Q, st.booleans(), st.floats(0, 5), st.integers(1, 8))
def test_rewards_of_the_arms(values: list[float], right: bool, alpha: float, k: int) -> None:
    q = torch.tensor([*values, float(right)], dtype=torch.float64)
    mu = best_of(q, k)
    torch.testing.assert_close(
        rewards("effective", q, alpha, k), q[1:] + alpha * (mu[1:] - mu[:-1])
    )
    assert rewards("outcome", q, alpha, k).tolist() == [float(right)] * len(values)
    assert rewards("q", q, alpha, k).tolist() == q[1:].tolist()


@settings(deadline=None)
@given(Q)
def test_a_baseline_knows_nothing_of_the_future(values: list[float]) -> None:
    q = torch.tensor([*values, 0.0], dtype=torch.float64)
    other_verdict = torch.tensor([*values, 1.0], dtype=torch.float64)
    for name in BASELINES:
        assert torch.equal(baseline(name, q, 0.5), baseline(name, other_verdict, 0.5))


@pytest.mark.parametrize(
    ("arm", "off", "candidates"),
    [
        ("outcome", "others", 1),
        ("q", "value", 1),
        ("effective", "none", 3),
    ],
)
def test_a_tiny_problem_is_solved(tmp_path: Path, arm: str, off: str, candidates: int) -> None:
    log = [
        *tiny_run(
            tmp_path,
            None if off == "others" else Prefix(),
            arm=arm,
            baseline=off,
            candidates=candidates,
        ).run()
    ]
    held = [record["held"]["accuracy"] for record in log if "held" in record]
    assert held[0] < 0.3 and held[-1] > 0.85 and len(held) == 2
    assert [record["samples"] for record in log] == [32 * i for i in range(16)]
    assert all(record["judged"] > 0 for record in log[1:]) == (off != "others")
    assert records(tmp_path) == log


def test_every_draw_may_count(tmp_path: Path) -> None:
    """Under a rule that discards draws."""
    config = dataclasses.replace(
        CONFIG, decoder="threshold:threshold=0.5", block_length=2, gen_length=2
    )
    run = PolicyTraining(
        tiny_lm(Tiny(dtype=torch.float32, scale=0.3)),
        [FAMILY],
        config,
        dataclasses.replace(RL, tokens="all_draws"),
        None,
        tmp_path,
    )
    held = [record["held"]["accuracy"] for record in run.run() if "held" in record]
    assert held[-1] > 0.85 > held[0]


def test_a_record_says_how_far_halves_of_the_gradient_agree(tmp_path: Path) -> None:
    """One problem has no halves."""
    few, many = (
        tiny_run(tmp_path / str(n), Prefix(), baseline="value", problems=n, samples=4, lr=1e-9)
        for n in (1, 2)
    )
    assert few.step()["grad_cosine"] is None
    log = [many.step() for _ in range(4)]
    assert len({record["grad_cosine"] for record in log}) > 1
    large = tiny_run(
        tmp_path / "large",
        Prefix(),
        arm="q",
        baseline="value",
        problems=16,
        candidates=8,
        samples=4,
        lr=1e-9,
    )
    assert (
        large.step()["grad_cosine"]
        > 0.9
        > max(np.mean([record["grad_cosine"] for record in log]), 0)
    )  # the more draws, the less noise


@pytest.mark.parametrize("tokens", TOKENS)
def test_gradients_in_bounded_parts_are_those_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: str
) -> None:
    """However few lines of logits fit at once, what is learnt is the same."""
    config = dataclasses.replace(CONFIG, decoder="threshold:threshold=0.5", block_length=3)
    answers = [answer for _, answer in every_draw(tiny_lm(Tiny()), config, 0.5)][::40]
    weights = [torch.arange(1.0, answer.state.depth + 1) for answer in answers]
    gradients, rows = [], []
    for name, values in (("whole", 2**26), ("parts", 2 * WORDS.size)):
        monkeypatch.setattr(reinforce, "MAX_TABLE_VALUES", values)
        run = tiny_run(
            tmp_path / name,
            tokens=tokens,
            arm="outcome",
            baseline="none",
            normalise=False,
            kl=0.1,
            problems=2,
        )
        rows_of_logits: list[int] = []
        run.model.register_forward_hook(
            lambda _, __, logits, rows_of_logits=rows_of_logits: rows_of_logits.append(len(logits))
        )  # type: ignore[misc]
        run.optimizer.step = lambda run=run: gradients.append([w.grad.clone() for w in run.weights])  # type: ignore[method-assign,misc]
        run.learn(answers, weights, [i % 2 for i in range(len(answers))], len(answers))
        rows.append(max(rows_of_logits))
    assert rows[0] > 4 and rows[1] <= 2
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    assert any(gradient.abs().max() > 0 for gradient in gradients[0])


def test_the_cosine_is_of_the_parts() -> None:
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
    assert cosine([one, None], [one + other, one]) == pytest.approx(math.sqrt(0.5), abs=1e-5)
    assert cosine([None], [one]) is None and cosine([one], [one]) is None


def test_the_divergence_holds_a_policy_back(tmp_path: Path) -> None:
    far = [
        [*tiny_run(tmp_path / str(kl), kl=kl, iterations=6, samples=8).run()][-1]["kl"]
        for kl in (0.0, 100.0)
    ]
    assert far[1] < far[0] / 5


def timeless(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "seconds"} for record in log]


@pytest.mark.parametrize("options", [{}, {"arm": "q", "candidates": 3}])
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path: Path, options: dict[str, Any]) -> None:
    def begin(name: str, **changes: Any) -> PolicyTraining:
        return tiny_run(
            tmp_path / name,
            Prefix() if options else None,
            **{"iterations": 6, "samples": 4, **options, **changes},
        )

    whole = begin("whole", save_every=3)
    whole_log = [*whole.run()]
    killed = begin("killed", save_every=3).run()
    for _ in range(6):  # two iterations behind the last saved state
        next(killed)
    killed.close()
    (tmp_path / "killed" / "log.jsonl").open("a").write('{"iteration": 9')
    again = begin("killed", save_every=3)
    later = [*again.run()]
    assert [record["iteration"] for record in later] == [4, 5, 6]
    assert timeless(records(tmp_path / "killed")) == timeless(whole_log)
    for weight, expected in zip(again.model.parameters(), whole.model.parameters()):
        assert torch.equal(weight, expected)
    assert [*begin("killed").run()] == []  # and once more: nothing left to do
    with pytest.raises(OptionError, match="other settings"):
        [*begin("killed", lr=0.5).run()]


def test_steps_end_where_a_run_says(tmp_path: Path) -> None:
    unmarked = [dataclasses.replace(FAMILY, step_delimiter="")]
    lm = tiny_lm(Tiny(dtype=torch.float32, scale=0.3))
    with pytest.raises(OptionError, match="does not say what ends a step"):
        PolicyTraining(lm, unmarked, CONFIG, RL, None, tmp_path)
    step_counts = [
        PolicyTraining(
            lm, unmarked, CONFIG, dataclasses.replace(RL, delimiter=mark), None, tmp_path
        ).step()["steps"]
        for mark in ("b", "\\n")
    ]
    assert (
        step_counts[0] > step_counts[1] == 32
    )  # with a mark that nobody writes an answer is one step


def test_a_run_leaves_a_checkpoint(tmp_path: Path) -> None:
    lm = load("pocket", batch_size=8)
    config = RLConfig(
        arm="outcome", baseline="others", problems=2, iterations=1, eval_limit=2, lr=1e-3
    )
    generation = GenerationConfig(decoder="threshold:threshold=0.3", gen_length=64, temperature=1.5)
    run = PolicyTraining(
        lm,
        load_tasks("arithmetic"),
        generation,
        config,
        None,
        tmp_path,
        resolve_checkpoint("pocket"),
    )
    first = [w.clone() for w in lm.model.parameters()]  # type: ignore[union-attr, attr-defined]
    log = [*run.run()]
    assert log[-1]["kl"] >= 0 and {"config.json", "tokenizer.json", "model.safetensors"} <= {
        path.name for path in tmp_path.iterdir()
    }
    again = load(str(tmp_path))
    for saved, trained, old in zip(again.model.parameters(), lm.model.parameters(), first):  # type: ignore[union-attr, attr-defined]
        assert torch.equal(saved, trained)
        assert not torch.equal(saved, old)


def test_samples_until_a_level() -> None:
    samples = np.array([0.0, 10, 20, 30, 40])
    line = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    assert smooth(line)[1:-1] == pytest.approx(line[1:-1]) and samples_to_reach(
        samples, line, 0.25
    ) == pytest.approx(15)
    assert samples_to_reach(samples, line, 0.9) is None
    slow = LearningCurve("outcome", samples, 10 * samples, np.stack([line, line]), np.ones((2, 5)))
    fast = LearningCurve(
        "effective", samples / 4, 5 * samples, np.stack([line, line]), np.ones((2, 5))
    )
    saved_share = saving(fast, slow, 0.45)
    assert saved_share["sequences_ratio"] == pytest.approx(2)
    assert (
        saved_share["ratio"] == pytest.approx(4)
        and saved_share["low"] == saved_share["high"] == pytest.approx(4)
        and saved_share["runs"] == 2
    )
    assert saving(
        LearningCurve("q", samples, samples, 0 * slow.accuracy, slow.passes), slow, 0.45
    ) == {
        "samples": None,
        "runs": 0,
        **dict.fromkeys(("ratio", "low", "high", "sequences", "sequences_ratio")),
    }
    range_ = student_interval([1.0, 2.0, 3.0])
    assert range_.high - range_.value == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)


def test_arms_side_by_side(tmp_path: Path) -> None:
    runs = run_specs(tmp_path, "outcome,effective", RL, 3, 2)
    assert [(run.arm, run.seed, run.folder.name) for run in runs][:2] == [
        ("outcome", 3, "outcome-3"),
        ("effective", 3, "effective-3"),
    ]
    assert run_specs(tmp_path, "q", RL, 0, 1)[0].folder == tmp_path
    for i, run in enumerate(runs):
        run.folder.mkdir()
        held = [{"accuracy": min(1.0, (n + i % 2) / 5), "passes": 3.0} for n in range(5)]
        lines = [
            {
                "iteration": n,
                "samples": 8 * n,
                "sequences": 30 * n,
                "judged": 2 * n,
                "held": held[n],
            }
            for n in range(5)
        ]
        (run.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arms = summary(runs, {})
    assert [arm["arm"] for arm in arms["arms"]] == ["outcome", "effective"] and arms[
        "level"
    ] == pytest.approx(0.7)
    assert arms["arms"][0]["sequences"] == [32 * n for n in range(5)]
    assert arms["arms"][1]["reaches"]["ratio"] > 1 and arms["arms"][0]["reaches"]["ratio"] == 1
    with pytest.raises(OptionError, match="effective"):
        run_specs(tmp_path, "efective", RL, 0, 1)


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["credit", "pav", "rl", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0


SMALL = [
    "--tasks",
    "arithmetic",
    "--problems",
    "1",
    "--samples",
    "2",
    "--iterations",
    "2",
    "--eval-limit",
    "2",
    "--temperature",
    "1.5",
]
FAST = [
    *SMALL,
    "--decoder",
    "threshold:threshold=0.3",
    "--gen-length",
    "64",
    "--baseline",
    "others",
    "--arms",
    "outcome",
    "--seeds",
    "2",
]


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, png = tmp_path / "runs", tmp_path / "curve.png"
    call([*FAST, "--out", str(out), "--png", str(png), "--json"], monkeypatch)
    report = json.loads(capsys.readouterr().out)
    assert (
        report["arms"][0]["samples"] == [0, 4]
        and report["arms"][0]["seeds"] == 2
        and png.stat().st_size > 1000
    )
    assert (
        json.loads((out / "rl.json").read_text()) == report
        and (out / "outcome-1" / "model.safetensors").exists()
    )
    call([*FAST, "--out", str(out)], monkeypatch)
    assert "outcome" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["--temperature", "0"], "temperature"),
        (["--decoder", "wino"], "takes them back"),
        (["--cfg-scale", "1"], "cfg_scale"),
        (["--k", "0.5"], "k"),
        (["--alpha", "-1"], "alpha"),
        (["--tasks", "QUESTIONS"], "ends a step"),
        (["--arms", "best"], "arm"),
        (["--arms", "effective", "--baseline", "value"], "verifier"),
        (["--verifier", "/nowhere"], "no verifier"),
        (["--samples", "1"], "two samples"),
        (["--quantize", "int8"], "quantize"),
        (["--candidates", "4"], "only for the step that was taken"),
        (["--candidates", "0"], "candidates"),
    ],
)
def test_what_cannot_be_learnt_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: list[str],
    expected: str,
) -> None:
    questions = tmp_path / "mmlu.jsonl"
    questions.write_text(
        '{"question": "Who?", "subject": "people", '
        '"choices": ["I", "you", "she", "he"], "answer": 0}\n'
    )
    changes = [f"mmlu={questions}" if change == "QUESTIONS" else change for change in changes]
    monkeypatch.setattr(
        sys, "argv", ["credit", "pav", "rl", *FAST, "--out", str(tmp_path / "runs"), *changes]
    )
    with pytest.raises(SystemExit) as end:
        main()
    error = capsys.readouterr().err
    assert end.value.code == 2 and expected in error and error.count("error:") == 1
    assert not (tmp_path / "runs").exists()
