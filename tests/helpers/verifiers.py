"""Labels, stores and verifiers for tests."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import torch

from creditdecoding.fingerprint import model_identity
from creditdecoding.lm import LM
from creditdecoding.pav.data.label_store import Label, LabelCost, Labels, StoreHeader, open_store
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.model import (
    Scorer,
    write_verifier,
)

GOOD, BAD = 40, 41


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


def some_labels(lm: LM, problems: int = 24, shuffled: bool = False, high: float = 0.5) -> Labels:
    """States of which those with a good step are mostly right and those with a bad one mostly
    wrong, and complete answers likewise.
    """
    rng = random.Random(0)
    labels = []
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
            labels.append(Label("quiz", problem, state, wins, 1 if done else 8))
    if shuffled:
        counts = [(label.wins, label.draws) for label in labels]
        rng.shuffle(counts)
        labels = [
            dataclasses.replace(label, wins=wins, draws=draws)
            for label, (wins, draws) in zip(labels, counts)
        ]
    return Labels(model_identity(lm), {}, tuple(labels))


def stored(labels: Labels, path: Path) -> str:
    """A store of these labels."""
    problems = {
        (label.family, label.problem): [x for x in labels.labels if x.problem == label.problem]
        for label in labels.labels
    }
    with open_store(
        path, StoreHeader(labels.identity, {"tasks": ["quiz"]}, len(problems))
    ) as store:
        for key, problem_labels in problems.items():
            store.add(key, problem_labels, LabelCost())
    return str(path)
