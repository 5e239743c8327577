"""The verifier: what it is shown, that it loads only where it belongs, that it learns from labels
and from nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from creditdecoding import load
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.fingerprint import Identity, model_identity
from creditdecoding.lm import LM
from creditdecoding.pav.data.label_store import Label, LabelCost, Labels, StoreHeader, open_store
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.fit import (
    VerifierTraining,
    fit_log_odds,
    labels_digest,
    split_labels,
)
from creditdecoding.pav.verifier.metrics import VerifierMetrics, brier_difference, measure
from creditdecoding.pav.verifier.model import (
    Scorer,
    Verifier,
    advantage,
    best_of,
    effective_reward,
    network,
    suffix_of,
    write_verifier,
)
from creditdecoding.pav.verifier.options import FitConfig
from creditdecoding.pav.verifier.packing import Suffix, pack, prefix_chains, row_width
from creditdecoding.pav.verifier.surprisal import token_surprisal
from tests.helpers.cli import run_credit
from tools.make_checkpoint import FAMILIES, make

pytestmark = pytest.mark.slow


def some_states(count: int = 6) -> list[PartialAnswer]:
    """A complete answer with its prefixes, and a state of another problem."""
    written = tuple(range(20, 20 + count))
    whole = PartialAnswer((7, 8, 9), written, tuple(range(1, count + 1)), True, "stop")
    return [*whole.prefixes, PartialAnswer((7, 8), (31, 32, 33), (2, 3))]


def written_verifier(lm: LM, folder: Path, masks: int = 0, model: str = "pocket") -> Scorer:
    """A verifier of random judgement in `folder`."""
    scorer = Scorer.begin(lm)
    torch.nn.init.normal_(scorer.value.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    folder.mkdir(exist_ok=True)
    write_verifier(folder, scorer, model_identity(lm), {"masks": masks, "model": model})
    return scorer


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket", batch_size=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_verifier_of_every_family_gives_each_state_what_it_gets_alone(
    family: str, tmp_path: Path
) -> None:
    model = load(str(make(family, tmp_path / "base")), batch_size=4)
    for masks in (0, 3):
        scorer = written_verifier(model, tmp_path / "verifier", masks)
        verifier = Verifier.load(tmp_path / "verifier", model)
        states = some_states()
        found = verifier.q([*states, *states[::-1]])
        assert (
            found.shape == (16,)
            and bool(((found > 0) & (found < 1)).all())
            and verifier.sequences == 4
        )
        assert torch.equal(found[:8], found[8:].flip(0)) and len(set(found[:8].tolist())) == 8
        assert torch.allclose(
            found[:8], torch.cat([verifier.q([state]) for state in states]), atol=1e-5
        )
        assert torch.allclose(
            found[:8],
            Verifier(network(model), scorer, suffix_of(model, masks)).q(states),
            atol=0.02,
        )  # weights lie in bfloat16


def test_what_the_network_is_shown() -> None:
    whole = PartialAnswer((1, 2), (3, 4, 5), (1, 3), True, "stop")
    (chain,) = prefix_chains([whole, *whole.prefixes])
    assert (
        chain == tuple(whole.prefixes)
        and row_width(chain, Suffix(9, 8, 1)) == 8
        and row_width(chain, Suffix(9, 8)) == 6
    )
    packed = pack(
        [chain, chain[:1]],
        Suffix(9, 8, 1),
        [torch.tensor([0.5, 0.25, 0.125]), torch.zeros(0)],
        multiple=5,
    )
    assert packed.surprise.tolist() == [[0, 0, 0.5, 0.25, 0.125, 0, 0, 0, 0, 0], [0] * 10]
    assert packed.tokens[0].tolist() == [1, 2, 3, 4, 5, 9, 9, 8, 9, 9] and packed.positions[
        0, :8
    ].tolist() == [0, 1, 2, 3, 4, 2, 3, 5]
    assert [(int(a), int(b)) for a, b in zip(*packed.read)] == [(0, 5), (0, 6), (0, 7), (1, 2)]
    sees = [packed.allowed[0, i].nonzero()[:, 0].tolist() for i in range(8)]
    assert sees == [
        [0, 1],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4],
        [0, 1, 5],
        [0, 1, 2, 6],
        [0, 1, 2, 3, 4, 7],
    ]
    assert (
        pack([chain], Suffix(9, 8), [torch.zeros(3)]).read[1].tolist() == [1, 2, 5]
        and packed.allowed.any(2).all()
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_surprise_looks_at_nothing_but_what_stands_before(family: str, tmp_path: Path) -> None:
    model = load(str(make(family, tmp_path)))
    whole = PartialAnswer((7, 8, 9), (20, 21, 22, 23), (2, 4))
    base = network(model)
    found, short, other, none = token_surprisal(
        base,
        [whole, whole.prefix(1), PartialAnswer((7, 8, 9), (20, 21, 22, 60)), PartialAnswer((7, 8))],
        model.vocab.mask_id,
    )
    assert found.shape == (4,) and bool((found > 0).all()) and none.shape == (0,)
    assert (
        torch.allclose(found[:2], short, atol=1e-5)
        and torch.allclose(found[:3], other[:3], atol=1e-5)
        and abs(found[3] - other[3]) > 1e-4
    )
    (alone,) = token_surprisal(base, [whole], model.vocab.mask_id)
    assert torch.allclose(found, alone, atol=1e-5)


def test_surprise_is_what_the_model_says(tiny: LM) -> None:
    """At the first token: the log-probability at one mask behind a prompt that does not see it."""
    base, state = network(tiny), PartialAnswer((7, 8, 9), (20,), (1,))
    allowed = torch.ones(1, 4, 4, dtype=torch.bool)
    allowed[:, :3, 3] = False
    logits = base(
        torch.tensor([[7, 8, 9, tiny.vocab.mask_id]]),
        (torch.tensor([0]), torch.tensor([3])),
        allowed,
    )
    (found,) = token_surprisal(base, [state], tiny.vocab.mask_id)
    assert found[0].item() == pytest.approx(-logits.log_softmax(-1)[0, 20].item(), abs=1e-4)


def test_rewards() -> None:
    assert best_of(0.5, 1) == 0.5 and best_of(0.5, 2) == 0.75 and best_of(1.0, 7) == 1.0
    assert advantage(0.2, 0.5, 1) == pytest.approx(0.3) and advantage(0.5, 0.5, 4) == 0
    assert effective_reward(0.2, 0.5, 2.0, 2) == pytest.approx(0.5 + 2 * (0.75 - 0.36))
    assert best_of(torch.tensor([0.0, 0.5]), 4).tolist() == [0.0, 0.9375]
    for k in (0, 0.99, -3, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="K of 1 or more"):
            best_of(0.5, k)


def test_a_verifier_of_something_else_is_refused(lm: LM, tmp_path: Path) -> None:
    def refused(kind: type[Exception], text: str, model: LM = lm) -> None:
        with pytest.raises(kind, match=text) as caught:
            Verifier.load(folder, model)
        assert "\n" not in str(caught.value)

    folder = tmp_path / "verifier"
    refused(CheckpointError, "no verifier here")
    written_verifier(lm, folder)
    about = json.loads((folder / "verifier.json").read_text())
    other = load(str(make("llada", tmp_path / "other")))
    refused(OptionError, "another tokenizer", other)
    (folder / "verifier.json").write_text(
        json.dumps({**about, "identity": {**about["identity"], "model": "0"}})
    )
    refused(OptionError, "another model")
    for text, match in (
        ('{"kind"', "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"kind": "verifier"}', "does not describe"),
    ):
        (folder / "verifier.json").write_text(text)
        refused(CheckpointError, match)
    for change in (
        {"architecture": {**about["architecture"], "depth": 3}},
        {"identity": {}},
        {"settings": {}},
        {"kind": "policy"},
    ):
        (folder / "verifier.json").write_text(json.dumps({**about, **change}))
        refused(CheckpointError, "does not describe")
    (folder / "verifier.json").write_text(json.dumps(about))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(CheckpointError, "truncated")
    (folder / "model.safetensors").unlink()
    refused(CheckpointError, "safetensors")


# ----------------------------------------------------------------------------------------------
# learning


GOOD, BAD = 40, 41
SMALL: dict[str, Any] = {"fit_batch": 8, "lr": 0.01, "epochs": 4, "save_every": 4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LM:
    """A tiny random checkpoint."""
    return load(str(make("llada", tmp_path_factory.mktemp("tiny"))), batch_size=32)


def some_labels(lm: LM, problems: int = 24, shuffled: bool = False, high: float = 0.5) -> Labels:
    """States of which those with a good step are mostly right and those with a bad one mostly
    wrong, and complete answers likewise.
    """
    rng = random.Random(0)
    found = []
    for problem in range(problems):
        for _ in range(5):
            good = rng.random() < high
            written = (*rng.choices(range(50, 90), k=rng.randint(1, 8)), GOOD if good else BAD)
            done = rng.random() < 0.4
            wins = (
                int(good) if done else sum(rng.random() < (0.9 if good else 0.1) for _ in range(8))
            )
            state = PartialAnswer(
                (7, problem + 100), written, (len(written),), done, "stop" if done else ""
            )
            found.append(Label("quiz", problem, state, wins, 1 if done else 8))
    if shuffled:
        counts = [(label.wins, label.draws) for label in found]
        rng.shuffle(counts)
        found = [
            dataclasses.replace(label, wins=wins, draws=draws)
            for label, (wins, draws) in zip(found, counts)
        ]
    return Labels(model_identity(lm), {}, tuple(found))


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
    told = held_to(fit, verifier)
    assert (
        told.brier_skill is not None
        and told.brier_skill.low > 0.6
        and told.pairwise_accuracy is not None
        and told.pairwise_accuracy.low > 0.8
    )
    assert told.floor is not None and told.floor.low < told.brier.value < told.base.low
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
    found = verifier.q([label.state for label in learned])
    assert float((found - torch.tensor([label.value for label in learned])).abs().max()) < 0.1


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
        mine = [
            (weight, fit.label_of[state].draws)
            for weight, (state,) in zip(weights, fit.chains)
            if (fit.label_of[state].value >= 0.5) == high
        ]
        drawn = sum(draws for _, draws in mine)
        assert sum(weight for weight, _ in mine) == pytest.approx(0.5)
        assert all(weight == pytest.approx(draws / drawn / 2) for weight, draws in mine)
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
    mine = [chain for chain in fit.chains if root in chain]
    shares = [
        share
        for share, state in zip(fit.weights(mine), (state for chain in mine for state in chain))
        if state == root
    ]
    assert (
        len(shares) == len(mine) > 1 and sum(shares) < max(fit.weights(mine)) * 1.01
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


# ----------------------------------------------------------------------------------------------
# measures


def counted(problem: int, wins: int, draws: int, done: bool = False) -> Label:
    """A label of some state."""
    return Label("quiz", problem, PartialAnswer((7,), (wins + 50,), (1,), done), wins, draws)


def test_measures_of_a_small_case_by_hand() -> None:
    labels = [counted(0, 1, 4), counted(0, 3, 4), counted(1, 2, 4), counted(1, 1, 1, done=True)]
    found = measure(labels, [0.25, 0.25, 0.55, 0.95])
    assert found.brier.value == pytest.approx((0 + 0.25 + 0.0025 + 0.0025) / 4)
    assert found.base.value == pytest.approx(np.var([0.25, 0.75, 0.5, 1.0]))
    assert found.floor is not None and found.floor.value == pytest.approx(
        (0.1875 / 3 * 2 + 0.25 / 3) / 4
    )
    assert found.pairwise_accuracy is not None and found.pairwise_accuracy.value == pytest.approx(
        (0.5 + 1) / 2
    )  # one pair is tied, one is in order
    assert (
        found.ece.value == pytest.approx((0.5 + 0.05 + 0.05) / 4)
        and found.problems == 2
        and found.states == 4
    )
    assert [(point["from"], point["states"]) for point in found.curve] == [
        (0.2, 2),
        (0.5, 1),
        (0.9, 1),
    ]
    once = measure([counted(0, 1, 1), counted(1, 0, 1)], [0.9, 0.2])
    assert (
        once.floor is None
        and once.pairwise_accuracy is None
        and once.brier.value == pytest.approx(0.025)
    )
    assert once.brier_skill is not None and once.brier_skill.value == pytest.approx(
        0.9
    )  # of the way from 0.25 to 0
    ends = measure(
        [counted(0, 1, 1), counted(1, 0, 1), counted(2, 3, 3, done=True)], [0.9, 0.2, 1.0]
    )
    assert ends.floor is None, (
        "what complete answers are is certain, and says nothing of the others"
    )


def test_a_perfect_verifier_reaches_the_floor() -> None:
    rng = np.random.default_rng(0)
    chances = rng.random((400, 5))
    labels = [counted(i, int(rng.binomial(6, q)), 6) for i, row in enumerate(chances) for q in row]
    found = measure(labels, chances.ravel().tolist(), resamples=500)
    assert found.floor is not None and found.floor.value == pytest.approx(
        found.brier.value, rel=0.05
    )
    assert (
        found.brier_skill is not None
        and found.brier_skill.low < 1 < found.brier_skill.high
        and found.ece.value < 0.03
    )
    worse = measure(labels, rng.permutation(chances.ravel()).tolist(), resamples=500)
    assert (
        worse.brier.value > worse.base.value
        and worse.pairwise_accuracy is not None
        and worse.pairwise_accuracy.low < 0.5 < worse.pairwise_accuracy.high
    )


def test_the_gap_of_two_verifiers_is_the_difference_of_their_brier_scores_and_paired() -> None:
    rng = np.random.default_rng(1)
    chances = rng.random((300, 4))
    labels = [counted(i, int(rng.binomial(2, q)), 2) for i, row in enumerate(chances) for q in row]
    good, poor = chances.ravel(), np.clip(chances.ravel() + rng.normal(0, 0.2, chances.size), 0, 1)
    found = brier_difference(labels, poor.tolist(), good.tolist())
    apart = measure(labels, poor.tolist()).brier, measure(labels, good.tolist()).brier
    assert found.value == pytest.approx(apart[0].value - apart[1].value) and found.low > 0
    assert found.high - found.low < (
        apart[0].high - apart[0].low
    )  # the labels' own noise is in both
    nothing = brier_difference(labels, good.tolist(), good.tolist())
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


# ---------------------------------------------------------------------------------------------- the
# command


def stored(labels: Labels, path: Path) -> str:
    """A store of these labels."""
    problems = {
        (label.family, label.problem): [x for x in labels.labels if x.problem == label.problem]
        for label in labels.labels
    }
    with open_store(
        path, StoreHeader(labels.identity, {"tasks": ["quiz"]}, len(problems))
    ) as store:
        for key, found in problems.items():
            store.add(key, found, LabelCost())
    return str(path)


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
    found = json.loads(done.stdout)
    assert (
        found["measures"]
        == json.loads((out / "verifier.json").read_text())["measures"]
        == Verifier.load(out, tiny).about["measures"]
    )
    assert (
        found["settings"]["epochs"] == 3
        and found["measures"]["problems"] == 8
        and found["measures"]["skill"]["value"] > 0.3
    )
    done = run_credit(["pav", "measure", labels, "--verifier", str(out), "-m", model, "--json"])
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["verifiers"] == {
        str(out): found["measures"]
    }  # on the problems held out alone
    again = run_credit(command)
    printed = " ".join(again.stdout.split())
    assert again.status == 0 and "Brier skill" in printed and "held out" in printed
    done = run_credit([*command[:-6], "--out", str(tmp_path / "orm"), "--outcome", "--json"])
    assert done.status == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert (
        outcome["settings"]["outcome"]
        and outcome["measures"]["states"] < found["measures"]["states"]
    )
    both = ["--verifier", str(tmp_path / "orm"), "--verifier", str(out)]
    done = run_credit(
        ["pav", "measure", stored(some_labels(tiny, 9), tmp_path / "few.jsonl"), *both, "-m", model]
    )
    assert done.status == 0, done.stderr
    printed = " ".join(done.stdout.split())
    assert "Brier score minus that of" in printed and printed.count("of 9 problems") == 2
    whole = Path(labels).read_bytes()
    for name, content, said in (
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
        assert said in error and error.count("\n") == 1, error
    done = run_credit([*command, "--seed", "3"])
    assert done.status == 2 and "seed: 0 there, 3 here" in done.stderr


def tiny_digest(store: bytes) -> bytes:
    """The model's digest in a store's header."""
    return str(json.loads(store.splitlines()[0])["identity"]["model"]).encode()
