"""Trains a verifier on labelled states: cross-entropy against the soft label, in balanced buckets.

A step takes some answers with all their labelled prefixes in packed rows. A verifier of states
learns each state once, an outcome verifier each answer as often as it was drawn. Labels below a
half and the others are two buckets of equal weight (arXiv 2410.08146). This moves predictions away
from how often answers are correct, so at the end two numbers (scale and shift of the log-odds) are
fitted on calibration problems. Problems, never states, are split into those to learn from, those
for calibration, and those held out to measure on. Runs continue after a kill.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from creditdecoding.errors import OptionError
from creditdecoding.fingerprint import check_identity
from creditdecoding.lm import LM
from creditdecoding.models.precision import faster_products
from creditdecoding.pav.data.label_store import Label, Labels
from creditdecoding.pav.problems import ProblemKey
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.model import Scorer, Verifier, network, suffix_of, write_verifier
from creditdecoding.pav.verifier.options import FitConfig
from creditdecoding.pav.verifier.packing import pack, prefix_chains, row_width
from creditdecoding.pav.verifier.surprisal import surprisal_positions, token_surprisal
from creditdecoding.run_dir import ResumableRun
from creditdecoding.train.rows import LENGTH_MULTIPLE
from creditdecoding.train.schedule import learning_rate
from creditdecoding.wording import count

FREE_OPTIONS = ("save_every", "compile_fit")
"""Options that may differ when a run continues."""
COLLECT_MORE = "Collect more: credit pav collect."

Chain = tuple[PartialAnswer, ...]


@dataclass(frozen=True)
class LabelSplit:
    """Labels by what their problem is for."""

    learned: tuple[Label, ...]
    calibration: tuple[Label, ...]
    held_out: tuple[Label, ...]

    @property
    def buckets(self) -> tuple[list[Label], list[Label]]:
        """The labels to learn from: those below a half, and the others."""
        low = [label for label in self.learned if label.value < 0.5]
        high = [label for label in self.learned if label.value >= 0.5]
        return low, high


def split_labels(labels: Labels, config: FitConfig) -> LabelSplit:
    """Split by problems, the same way for the same seed.

    Raises `OptionError` if nothing is left to hold out or to learn from.
    """
    part_of = _problem_parts(labels, config)
    relevant = labels.outcomes if config.outcome else labels.labels
    parts: tuple[list[Label], ...] = ([], [], [])
    for label in relevant:
        parts[part_of[label.key]].append(label)
    learned, calibration, held_out = map(tuple, parts)
    if not learned or not held_out:
        raise OptionError(
            "too few complete answers to learn from and to hold out",
            given=len(relevant),
            hint=COLLECT_MORE,
        )
    return LabelSplit(learned, calibration, held_out)


def _problem_parts(labels: Labels, config: FitConfig) -> dict[ProblemKey, int]:
    """The part of each problem: 0 to learn from, 1 for calibration, 2 held out."""
    problems = sorted({label.key for label in labels.labels})
    total = len(problems)
    if total < 2:
        raise OptionError(
            "no problem can be held out",
            given=f"labels of {count(total, 'problem')}",
            allowed="2 or more",
            hint=COLLECT_MORE,
        )
    random.Random(f"divide/{config.seed}").shuffle(problems)
    held_out = min(total - 1, max(1, round(config.held_out * total)))
    calibration = min(total - held_out - 1, round(config.calibration * total))
    parts = [2] * held_out + [1] * calibration + [0] * (total - held_out - calibration)
    return dict(zip(problems, parts))


def held_out_labels(verifier: Verifier, labels: Labels) -> tuple[Label, ...]:
    """The labels of problems held out when the verifier was trained.

    All labels, if it was trained on other ones.
    """
    settings = verifier.about.get("settings", {})
    if settings.get("labels") != labels_digest(labels):
        return labels.labels
    names = [field.name for field in dataclasses.fields(FitConfig)]
    parts = _problem_parts(labels, FitConfig(**{name: settings[name] for name in names}))
    return tuple(label for label in labels.labels if parts[label.key] == 2)


def labels_digest(labels: Labels) -> str:
    """Hash of all labels, to match a run or a verifier with its data."""
    digest = hashlib.blake2b(digest_size=8)
    for label in (*labels.labels, *labels.answers):
        fields = (repr(label.family), repr(label.problem), label.state.digest_text)
        digest.update(f"({', '.join(fields)}, {label.wins}, {label.draws})".encode())
    return digest.hexdigest()


def _groups(states: Sequence[PartialAnswer], size: int) -> dict[PartialAnswer, list[PartialAnswer]]:
    """For each state the `size` states of about its length that go through the model with it."""
    ordered = sorted(dict.fromkeys(states), key=surprisal_positions)
    groups = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return {state: group for group in groups for state in group}


def check_labels(labels: Labels, lm: LM) -> None:
    """Refuse labels that are outside of [0, 1], or belong to another model or tokenizer.

    Raises `OptionError`.
    """
    if not labels.labels:
        raise OptionError("the store has no labels", hint="Collect some: credit pav collect.")
    check_identity(labels.identity, lm, "the store")
    for number, label in enumerate((*labels.labels, *labels.answers), 1):
        if not 0 <= label.wins <= label.draws or label.draws < 1:
            raise OptionError(
                "a label is outside [0, 1]",
                given=f"{label.wins} of {label.draws} in label {number}",
                allowed="0 <= wins <= draws, 1 <= draws",
                hint="Collect the store again.",
            )
        ids = (*label.state.prompt, *label.state.written)
        is_known = bool(label.state.prompt) and min(ids) >= 0 and max(ids) < lm.vocab.size
        if not is_known or len(ids) > lm.max_length:
            raise OptionError(
                "a state is not one of this model",
                given=f"label {number}",
                hint="Collect the store again.",
            )


class VerifierTraining:
    """A training run in a folder: `state.pt` while it runs, the verifier when it ends."""

    def __init__(self, lm: LM, labels: Labels, config: FitConfig, folder: Path) -> None:
        check_labels(labels, lm)
        self.lm = lm
        self.labels = labels
        self.config = config
        self.folder = folder
        self.split = split_labels(labels, config)
        self.suffix = suffix_of(lm, config.masks)
        self.label_of = {label.state: label for label in self.split.learned}
        self.chains = prefix_chains(self.label_of)
        self.chain_count = Counter(state for chain in self.chains for state in chain)
        self._orders: dict[int, list[int]] = {}
        self._surprisal: dict[PartialAnswer, Tensor] = {}
        self._group_of = _groups([chain[-1] for chain in self.chains], config.fit_batch)
        self.steps = -(-config.epochs * len(self.chains) // config.fit_batch)
        self.step = 0
        self.seconds = 0.0
        self.scorer = Scorer.begin(lm, "math" if lm.device.type == "cpu" else "sdpa")
        self.optimizer = torch.optim.AdamW(
            self.scorer.parameters(),
            lr=config.lr,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
        )
        if config.compile_fit:
            self.scorer.trunk.compile_layers(dynamic=True)
        self.resumable = ResumableRun(folder, self._settings(), settings_key="about")
        self._resume()

    def _settings(self) -> dict[str, Any]:
        """What a run must have in common with the one it continues."""
        options = dataclasses.asdict(self.config)
        fixed = {name: value for name, value in options.items() if name not in FREE_OPTIONS}
        model = self.labels.identity.model
        return {**fixed, "labels": labels_digest(self.labels), "model": model}

    def _resume(self) -> None:
        state = self.resumable.load(self.lm.device)
        if state is not None:
            self.scorer.load_state_dict(state["scorer"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            self.seconds = state["seconds"]

    @property
    def saved(self) -> int:
        """Steps in the saved state."""
        return self.resumable.saved_step

    def save(self) -> None:
        """Save the state; a kill leaves the old or the new file."""
        self.resumable.save(
            {
                "scorer": self.scorer.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
            }
        )

    def batch(self, step: int) -> list[Chain]:
        """The rows of a step, sorted by length.

        They are the next ones of an endless order in which all rows come before any comes again.
        """
        size = self.config.fit_batch
        chains = []
        for number in range(step * size, (step + 1) * size):
            epoch, index = divmod(number, len(self.chains))
            chains.append(self.chains[self._order(epoch)[index]])
        return sorted(chains, key=lambda chain: row_width(chain, self.suffix))

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            count = len(self.chains)
            order = random.Random(f"{self.config.seed}/{epoch}").sample(range(count), count)
            self._orders = {epoch: order}
        return self._orders[epoch]

    def weights(self, chains: Sequence[Chain]) -> list[float]:
        """The weight in the loss of each state of a step.

        Each bucket weighs 1/2, and in it a state by its count, in however many rows it is.
        """
        states = [state for chain in chains for state in chain]
        shares = [self.count(self.label_of[state]) / self.chain_count[state] for state in states]
        is_high = [self.label_of[state].value >= 0.5 for state in states]
        total = {True: 0.0, False: 0.0}
        for high, share in zip(is_high, shares):
            total[high] += share
        return [share / total[high] / 2 for high, share in zip(is_high, shares)]

    def count(self, label: Label) -> int:
        """How often a label counts: for an outcome verifier, as often as its answer was drawn."""
        return label.draws if self.config.outcome else 1

    def loss(self, chains: Sequence[Chain], weights: Sequence[float]) -> Tensor:
        """Weighted cross-entropy against the soft labels, in nats."""
        device = self.lm.device
        values = [self.label_of[state].value for chain in chains for state in chain]
        with faster_products(device):
            packed = pack(chains, self.suffix, self._surprisal_of(chains), LENGTH_MULTIPLE)
            log_odds = self.scorer(packed.to(device))
        return F.binary_cross_entropy_with_logits(
            log_odds,
            torch.tensor(values, device=device),
            torch.tensor(weights, device=device),
            reduction="sum",
        )

    def _surprisal_of(self, chains: Sequence[Chain]) -> list[Tensor]:
        """Surprisal of the rows; the base model is frozen, so it is computed once.

        A row is always computed with the same others: its last digits depend on them, and a run
        that continues must have the same ones.
        """
        longest = [chain[-1] for chain in chains]
        for state in longest:
            if state not in self._surprisal:
                group = self._group_of[state]
                surprisal = token_surprisal(network(self.lm), group, self.suffix.mask_id)
                self._surprisal.update(zip(group, surprisal))
        return [self._surprisal[state] for state in longest]

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns its log record."""
        self.scorer.train()
        lr = learning_rate(self.step, self.steps, self.config.lr, max(1, self.steps // 20))
        chains = self.batch(self.step)
        weights = iter(self.weights(chains))
        part_size = -(-len(chains) // self.config.parts)
        total = 0.0
        for start in range(0, len(chains), part_size):
            part = chains[start : start + part_size]
            loss = self.loss(part, [next(weights) for chain in part for _ in chain])
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.scorer.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {"step": self.step, "lr": lr, "loss": round(total, 5)}

    def run(self) -> Iterator[dict[str, float]]:
        """Train to the end, log and yield a record a step, then write the verifier."""
        self.resumable.cut_log(self.step + 1)
        while self.step < self.steps:
            began = time.perf_counter()
            record = self.train_step()
            self.seconds += time.perf_counter() - began
            self.resumable.log({**record, "seconds": round(self.seconds, 1)})
            if self.step == self.steps or self.step % self.config.save_every == 0:
                self.save()
            yield record
        self._write()

    def _write(self) -> None:
        scale, shift = self.calibrate()
        settings = {
            **dataclasses.asdict(self.config),
            "steps": self.steps,
            "states": {name: len(labels) for name, labels in vars(self.split).items()},
            "buckets": [len(bucket) for bucket in self.split.buckets],
            "odds": [scale, shift],
            "labels": labels_digest(self.labels),
        }
        write_verifier(self.folder, self.scorer, self.labels.identity, settings)

    def calibrate(self) -> tuple[float, float]:
        """Fit scale and shift of the log-odds on the calibration problems, into the last layer.

        1 and 0 if there are no such problems.
        """
        labels = self.split.calibration
        if not labels:
            return 1.0, 0.0
        verifier = Verifier(network(self.lm), self.scorer, self.suffix, self.config.fit_batch)
        with faster_products(self.lm.device):
            q = verifier.q([label.state for label in labels])
        target = torch.tensor([label.value for label in labels], dtype=torch.double)
        counts = torch.tensor([self.count(label) for label in labels], dtype=torch.double)
        scale, shift = fit_log_odds(q.double().logit(eps=1e-6), target, counts)
        with torch.no_grad():
            self.scorer.value.weight.mul_(scale)
            self.scorer.value.bias.mul_(scale).add_(shift)
        return scale, shift


def fit_log_odds(
    log_odds: Tensor, target: Tensor, counts: Tensor | None = None, prior: float = 1.0
) -> tuple[float, float]:
    """Scale and shift of log-odds [n] that fit `target` [n] best, with `counts` [n] as weights.

    A penalty of the weight of `prior` states keeps them near 1 and 0 (Platt scaling).
    """
    identity = torch.tensor([1.0, 0.0], dtype=torch.double)
    fitted = identity.clone().requires_grad_()
    solver = torch.optim.LBFGS([fitted], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        scaled = fitted[0] * log_odds + fitted[1]
        misfit = F.binary_cross_entropy_with_logits(scaled, target, counts, reduction="sum")
        loss = misfit + prior * (fitted - identity).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    scale, shift = fitted.detach().tolist()
    return scale, shift
