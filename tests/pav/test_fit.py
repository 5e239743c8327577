"""Training a verifier: it learns from labels and from nothing else, and continues after a kill."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from creditdecoding import load
from creditdecoding.errors import OptionError
from creditdecoding.fingerprint import Identity
from creditdecoding.lm import LM
from creditdecoding.pav.data.label_store import Labels
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.fit import (
    VerifierTraining,
    fit_log_odds,
    labels_digest,
    split_labels,
)
from creditdecoding.pav.verifier.metrics import VerifierMetrics, measure
from creditdecoding.pav.verifier.model import (
    Verifier,
)
from creditdecoding.pav.verifier.options import FitConfig
from tests.helpers.cli import run_credit
from tests.helpers.verifiers import GOOD, some_labels, stored
from tools.make_checkpoint import make

pytestmark = pytest.mark.slow


SMALL: dict[str, Any] = {"fit_batch": 8, "lr": 0.01, "epochs": 4, "save_every": 4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LM:
    """A tiny random checkpoint."""
    return load(str(make("llada", tmp_path_factory.mktemp("tiny"))), batch_size=32)


def learn(
    lm: LM, labels: Labels, folder: Path, **options: Any
) -> tuple[VerifierTraining, Verifier]:
    """A whole run."""
    folder.mkdir(exist_ok=True)
    fit = VerifierTraining(lm, labels, FitConfig(**{**SMALL, **options}), folder)
    list(fit.run())
    return fit, Verifier.load(folder, lm)


def held_to(fit: VerifierTraining, verifier: Verifier, **options: Any) -> VerifierMetrics:
    """What it is worth on its problems held out."""
    held_out = fit.split.held_out
    return measure(held_out, verifier.q([label.state for label in held_out]).tolist(), **options)


def test_it_learns_from_labels_and_not_from_noise(tiny: LM, tmp_path: Path) -> None:
    fit, verifier = learn(tiny, some_labels(tiny, 60), tmp_path / "told")
    metrics = held_to(fit, verifier)
    assert (
        metrics.brier_skill is not None
        and metrics.brier_skill.low > 0.6
        and metrics.pairwise_accuracy is not None
        and metrics.pairwise_accuracy.low > 0.8
    )
    assert metrics.floor is not None and metrics.floor.low < metrics.brier.value < metrics.base.low
    fit, verifier = learn(tiny, some_labels(tiny, 60, shuffled=True), tmp_path / "noise")
    noise = held_to(fit, verifier)
    assert (
        noise.brier_skill is not None
        and noise.brier_skill.value < 0.1
        and noise.pairwise_accuracy is not None
        and noise.pairwise_accuracy.low < 0.5
    )


def test_it_can_learn_a_handful_of_states_by_heart(tiny: LM, tmp_path: Path) -> None:
    labels = some_labels(tiny, 3, shuffled=True)
    fit, verifier = learn(tiny, labels, tmp_path / "v", epochs=100, calibration=0.0)
    learned = fit.split.learned
    q = verifier.q([label.state for label in learned])
    assert float((q - torch.tensor([label.value for label in learned])).abs().max()) < 0.1


def test_an_outcome_verifier_learns_every_answer_as_often_as_it_was_drawn(
    tiny: LM, tmp_path: Path
) -> None:
    labels = some_labels(tiny, 40)
    counted = [
        dataclasses.replace(label, state=dataclasses.replace(label.state, written=(n, GOOD)))
        for n, label in enumerate(labels.labels)
        if label.state.done
    ]
    times = [1 + n % 3 for n in range(len(counted))]
    answers = tuple(
        dataclasses.replace(label, wins=label.wins * count, draws=count)
        for label, count in zip(counted, times)
    )
    whole = dataclasses.replace(labels, answers=answers)
    parts = split_labels(whole, FitConfig(outcome=True))
    every = (*parts.learned, *parts.calibration, *parts.held_out)
    assert sorted(map(repr, every)) == sorted(map(repr, answers)), "none is thrown away"
    assert split_labels(whole, FitConfig()) == split_labels(labels, FitConfig()), (
        "states are what they were"
    )
    fit = VerifierTraining(tiny, whole, FitConfig(outcome=True, **SMALL), tmp_path)
    weights = fit.weights(fit.chains)
    for high in (False, True):
        weighted = [
            (weight, fit.label_of[state].draws)
            for weight, (state,) in zip(weights, fit.chains)
            if (fit.label_of[state].value >= 0.5) == high
        ]
        drawn = sum(draws for _, draws in weighted)
        assert sum(weight for weight, _ in weighted) == pytest.approx(0.5)
        assert all(weight == pytest.approx(draws / drawn / 2) for weight, draws in weighted)
    assert labels_digest(whole) != labels_digest(labels) != labels_digest(some_labels(tiny, 39))


def test_both_buckets_weigh_alike_and_every_label_is_seen(tiny: LM, tmp_path: Path) -> None:
    labels = some_labels(tiny, 40, high=0.15)
    begun = [label for label in labels.labels if not label.state.done]
    more = [
        dataclasses.replace(label, state=label.state.prefix(0), wins=2, draws=8)
        for label in {x.problem: x for x in begun}.values()
    ]
    fit = VerifierTraining(
        tiny,
        dataclasses.replace(labels, labels=(*labels.labels, *more)),
        FitConfig(**SMALL),
        tmp_path,
    )
    low, high = fit.split.buckets
    assert len(low) > 4 * len(high)
    seen: Counter[PartialAnswer] = Counter()
    for step in range(-(-len(fit.chains) // 8)):
        rows = fit.batch(step)
        states = [state for chain in rows for state in chain]
        weight = dict.fromkeys((False, True), 0.0)
        for state, share in zip(states, fit.weights(rows)):
            weight[fit.label_of[state].value >= 0.5] += share
        assert all(share == 0 or share == pytest.approx(0.5) for share in weight.values()) and any(
            weight.values()
        )
        seen.update(chain[-1] for chain in rows)
    assert (
        set(seen) == {chain[-1] for chain in fit.chains}
        and max(seen.values()) - min(seen.values()) <= 1
    )
    assert {state for chain in fit.chains for state in chain} == {
        label.state for label in (*low, *high)
    }
    root = next(label.state for label in more if label.state in fit.label_of)
    root_chains = [chain for chain in fit.chains if root in chain]
    shares = [
        share
        for share, state in zip(
            fit.weights(root_chains), (state for chain in root_chains for state in chain)
        )
        if state == root
    ]
    assert (
        len(shares) == len(root_chains) > 1 and sum(shares) < max(fit.weights(root_chains)) * 1.01
    )  # one state, in however many rows
    assert (
        fit.batch(3)
        == VerifierTraining(tiny, fit.labels, FitConfig(**SMALL), tmp_path).batch(3)
        != fit.batch(4)
    )
    all_bad = dataclasses.replace(
        labels, labels=tuple(label for label in labels.labels if label.value < 0.5)
    )
    one = VerifierTraining(tiny, all_bad, FitConfig(**SMALL), tmp_path)
    assert (
        sum(one.weights(one.batch(0))) == pytest.approx(0.5)
        and one.loss(one.batch(0), one.weights(one.batch(0))).isfinite()
    )


@pytest.mark.parametrize("outcome", [False, True])
def test_problems_are_divided_and_not_states(tiny: LM, outcome: bool) -> None:
    labels = some_labels(tiny)
    parts = split_labels(labels, FitConfig(outcome=outcome))
    problems = [
        {label.problem for label in part}
        for part in (parts.learned, parts.calibration, parts.held_out)
    ]
    assert (
        not problems[0] & problems[1]
        and not problems[0] & problems[2]
        and not problems[1] & problems[2]
        and all(problems)
    )
    every = (*parts.learned, *parts.calibration, *parts.held_out)
    assert sorted(map(repr, every)) == sorted(
        repr(label) for label in labels.labels if label.state.done or not outcome
    )
    whole = split_labels(labels, FitConfig())
    assert problems[2] <= {
        label.problem for label in whole.held_out
    }  # both kinds of verifier are measured on the same problems
    assert split_labels(labels, FitConfig(seed=1)).held_out != whole.held_out


def test_a_run_goes_on_where_it_was_killed(tiny: LM, tmp_path: Path) -> None:
    labels = some_labels(tiny)
    whole, _ = learn(tiny, labels, tmp_path / "whole")
    (tmp_path / "parts").mkdir()
    first = VerifierTraining(tiny, labels, FitConfig(**SMALL), tmp_path / "parts")
    for record in first.run():
        if record["step"] == 6:  # the state of step 4 was saved
            break
    second = VerifierTraining(tiny, labels, FitConfig(**SMALL), tmp_path / "parts")
    assert second.step == 4
    list(second.run())
    for name, weight in whole.scorer.state_dict().items():
        assert torch.equal(weight, second.scorer.state_dict()[name]), name
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "parts" / "model.safetensors"
    ).read_bytes()
    learn(tiny, labels, tmp_path / "parts")  # a finished run changes nothing
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "parts" / "model.safetensors"
    ).read_bytes()
    for other, options in ((labels, {"lr": 0.02}), (some_labels(tiny, 30), {})):
        with pytest.raises(OptionError, match=r"other settings \((lr|labels): "):
            VerifierTraining(tiny, other, FitConfig(**{**SMALL, **options}), tmp_path / "parts")
    (tmp_path / "parts" / "state.pt").write_bytes(b"no state")
    with pytest.raises(OptionError, match="cannot be read"):
        VerifierTraining(tiny, labels, FitConfig(**SMALL), tmp_path / "parts")


def test_the_last_two_numbers_bring_back_the_odds() -> None:
    generator = torch.Generator().manual_seed(0)
    odds = torch.randn(4000, generator=generator).double() * 2
    scale, shift = fit_log_odds(odds, (0.5 * odds - 1).sigmoid())
    assert scale == pytest.approx(0.5, abs=0.01) and shift == pytest.approx(-1, abs=0.01)
    halves = (
        torch.cat([odds[:50], odds[:50]]),
        torch.cat([odds[:50].sigmoid(), odds[50:100].sigmoid()]),
    )
    once = fit_log_odds(halves[0].repeat_interleave(3), halves[1].repeat_interleave(3))
    assert fit_log_odds(*halves, torch.full((100,), 3.0).double()) == pytest.approx(once, abs=1e-4)
    assert fit_log_odds(odds, odds.sigmoid()) == (
        pytest.approx(1, abs=1e-4),
        pytest.approx(0, abs=1e-4),
    )


def test_labels_that_cannot_be_are_refused(tiny: LM, tmp_path: Path) -> None:
    fine = some_labels(tiny)
    first = fine.labels[0]

    def refused(labels: Labels, text: str, **options: Any) -> None:
        with pytest.raises(OptionError, match=text) as caught:
            VerifierTraining(tiny, labels, FitConfig(**options), tmp_path)
        assert "\n" not in str(caught.value)

    refused(dataclasses.replace(fine, labels=()), "no labels")
    for wins, draws in ((9, 8), (-1, 8), (0, 0)):
        refused(
            dataclasses.replace(
                fine, labels=(*fine.labels, dataclasses.replace(first, wins=wins, draws=draws))
            ),
            r"outside \[0, 1\]",
        )
    for state in (
        PartialAnswer((), (5,), (1,)),
        PartialAnswer((7, 10_000)),
        PartialAnswer((7,) * 300),
    ):
        refused(
            dataclasses.replace(
                fine, labels=(*fine.labels, dataclasses.replace(first, state=state))
            ),
            "not one of this model",
        )
    refused(
        dataclasses.replace(fine, identity=Identity("0", fine.identity.tokenizer)), "another model"
    )
    refused(
        dataclasses.replace(fine, identity=Identity(fine.identity.model, "0")), "another tokenizer"
    )
    refused(some_labels(tiny, 1), "no problem can be held out")
    refused(
        dataclasses.replace(
            fine, labels=tuple(label for label in fine.labels if not label.state.done)
        ),
        "complete answers",
        outcome=True,
    )


def test_the_command_trains_measures_and_goes_on(tiny: LM, tmp_path: Path) -> None:
    model = str(make("llada", tmp_path / "model"))
    labels, out = stored(some_labels(tiny, 40), tmp_path / "labels.jsonl"), tmp_path / "verifier"
    command = [
        "pav",
        "train",
        labels,
        "-m",
        model,
        "--out",
        str(out),
        "--fit-batch",
        "8",
        "--lr",
        "0.01",
        "--epochs",
        "3",
        "--save-every",
        "5",
    ]
    done = run_credit([*command, "--json"])
    assert done.status == 0, done.stderr
    report = json.loads(done.stdout)
    assert (
        report["measures"]
        == json.loads((out / "verifier.json").read_text())["measures"]
        == Verifier.load(out, tiny).about["measures"]
    )
    assert (
        report["settings"]["epochs"] == 3
        and report["measures"]["problems"] == 8
        and report["measures"]["skill"]["value"] > 0.3
    )
    done = run_credit(["pav", "measure", labels, "--verifier", str(out), "-m", model, "--json"])
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["verifiers"] == {
        str(out): report["measures"]
    }  # on the problems held out alone
    again = run_credit(command)
    printed = " ".join(again.stdout.split())
    assert again.status == 0 and "Brier skill" in printed and "held out" in printed
    done = run_credit([*command[:-6], "--out", str(tmp_path / "orm"), "--outcome", "--json"])
    assert done.status == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert (
        outcome["settings"]["outcome"]
        and outcome["measures"]["states"] < report["measures"]["states"]
    )
    both = ["--verifier", str(tmp_path / "orm"), "--verifier", str(out)]
    done = run_credit(
        ["pav", "measure", stored(some_labels(tiny, 9), tmp_path / "few.jsonl"), *both, "-m", model]
    )
    assert done.status == 0, done.stderr
    printed = " ".join(done.stdout.split())
    assert "Brier score minus that of" in printed and printed.count("of 9 problems") == 2
    whole = Path(labels).read_bytes()
    for name, content, expected in (
        ("empty", b"", "empty"),
        ("cut", whole[: len(whole) // 2], "not finished or is cut off"),
        ("high", whole.replace(b'"draws": 8', b'"draws": 0'), "broken"),
        ("other", whole.replace(tiny_digest(whole), b"0" * 16), "another model"),
        ("none", None, "cannot be read"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        done = run_credit(
            ["pav", "train", str(tmp_path / name), "-m", model, "--out", str(tmp_path / "refused")]
        )
        assert done.status == 2, done.stderr
        error = done.stderr
        assert expected in error and error.count("\n") == 1, error
    done = run_credit([*command, "--seed", "3"])
    assert done.status == 2 and "seed: 0 there, 3 here" in done.stderr


def tiny_digest(store: bytes) -> bytes:
    """The model's digest in a store's header."""
    return str(json.loads(store.splitlines()[0])["identity"]["model"]).encode()
