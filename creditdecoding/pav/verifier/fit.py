"""Teaches a verifier from labelled states: cross-entropy against the soft label, two balanced
buckets, resumable after a kill.

A step takes some answers with all their labelled prefixes (packing.py). A verifier of states learns
each state once, an outcome verifier
each answer that was drawn as often as it was. Labels of a step below a half and the others are two
buckets of the same
weight (arXiv 2410.08146); where a step has one bucket alone, that keeps its half. This moves the
predictions away from how often
answers are right, so two numbers (scale and shift of the log-odds) are fitted at the end on
problems kept aside for that. Problems, never
states, are divided into those learned from, those for this, and those held out for measures.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
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
from creditdecoding.pav.data.label_store import Label, Labels
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.model import Scorer, Verifier, network, suffix_of, write_verifier
from creditdecoding.pav.verifier.options import FitConfig
from creditdecoding.pav.verifier.packing import pack, prefix_chains, row_width
from creditdecoding.pav.verifier.surprisal import token_surprisal
from creditdecoding.train.rows import LENGTH_MULTIPLE
from creditdecoding.train.schedule import learning_rate, save_state, truncate_log

LOG = "log.jsonl"


@dataclass(frozen=True)
class LabelSplit:
    """Labels by the part that their problem belongs to."""

    learned: tuple[Label, ...]
    calibration: tuple[Label, ...]
    held_out: tuple[Label, ...]

    @property
    def buckets(self) -> tuple[list[Label], list[Label]]:
        """What is learned from: labels below a half, and the others."""
        return [x for x in self.learned if x.value < 0.5], [
            x for x in self.learned if x.value >= 0.5
        ]


def split_labels(labels: Labels, config: FitConfig) -> LabelSplit:
    """Divide the problems, the same way for the same seed. Raises `OptionError` where none can be
    held out or nothing is left to learn from.
    """
    part = _parts(labels, config)
    chosen = labels.outcomes if config.outcome else labels.labels
    learned, calibration, held_out = (
        tuple(label for label in chosen if part[label.family, label.problem] == number)
        for number in range(3)
    )
    if not learned or not held_out:
        hint = "Collect more: credit pav collect."
        raise OptionError(
            "too few complete answers to learn from and to hold out", given=len(chosen), hint=hint
        )
    return LabelSplit(learned, calibration, held_out)


def _parts(labels: Labels, config: FitConfig) -> dict[tuple[str, int], int]:
    """The part of each problem: 0 to learn from, 1 for the calibration, 2 held out."""
    problems = sorted({(label.family, label.problem) for label in labels.labels})
    if len(problems) < 2:
        given = f"labels of {len(problems)} problem{'s' * (len(problems) != 1)}"
        raise OptionError(
            "no problem can be held out",
            given=given,
            allowed="2 or more",
            hint="Collect more: credit pav collect.",
        )
    random.Random(f"divide/{config.seed}").shuffle(problems)
    held = min(len(problems) - 1, max(1, round(config.held_out * len(problems))))
    aside = min(len(problems) - held - 1, round(config.calibration * len(problems)))
    return {
        problem: 2 if i < held else 1 if i < held + aside else 0
        for i, problem in enumerate(problems)
    }


def held_out_labels(verifier: Verifier, labels: Labels) -> tuple[Label, ...]:
    """Those of problems held out when the verifier was trained; all of them, if it was trained on
    other labels.
    """
    settings = verifier.about.get("settings", {})
    if settings.get("labels") != labels_digest(labels):
        return labels.labels
    part = _parts(
        labels,
        FitConfig(**{field.name: settings[field.name] for field in dataclasses.fields(FitConfig)}),
    )
    return tuple(label for label in labels.labels if part[label.family, label.problem] == 2)


def labels_digest(labels: Labels) -> str:
    """Of all labels: by it a run, and a verifier, knows its store again."""
    found = hashlib.blake2b(digest_size=8)
    for label in (*labels.labels, *labels.answers):
        found.update(
            repr((label.family, label.problem, label.state, label.wins, label.draws)).encode()
        )
    return found.hexdigest()


def check_labels(labels: Labels, lm: LM, tokenizer_only: bool = False) -> None:
    """Refuse labels that are none, outside of [0, 1], or of another model or tokenizer. Raises
    `OptionError`.
    """
    if not labels.labels:
        raise OptionError("the store has no labels", hint="Collect some: credit pav collect.")
    check_identity(labels.identity, lm, "the store", model=not tokenizer_only)
    for place, label in enumerate((*labels.labels, *labels.answers)):
        given = f"{label.wins} of {label.draws} in label {place + 1}"
        if not 0 <= label.wins <= label.draws or label.draws < 1:
            raise OptionError(
                "a label is outside [0, 1]",
                given=given,
                allowed="0 <= wins <= draws, 1 <= draws",
                hint="Collect the store anew.",
            )
        ids = (*label.state.prompt, *label.state.written)
        if (
            not label.state.prompt
            or len(ids) > lm.max_length
            or not 0 <= min(ids) <= max(ids) < lm.vocab.size
        ):
            raise OptionError(
                "a state is not one of this model",
                given=f"label {place + 1}",
                hint="Collect the store anew.",
            )


class VerifierTraining:
    """One training run in a folder: `state.pt` while it runs, the verifier when it ends."""

    def __init__(self, lm: LM, labels: Labels, config: FitConfig, folder: Path) -> None:
        check_labels(labels, lm)
        self.lm, self.labels, self.config, self.folder = lm, labels, config, folder
        self.division = split_labels(labels, config)
        self.feed = suffix_of(lm, config.masks)
        self.labels_of = {label.state: label for label in self.division.learned}
        self.rows = prefix_chains(self.labels_of)
        self.shared = Counter(state for chain in self.rows for state in chain)
        self._orders: dict[int, list[int]] = {}
        self._surprises: dict[PartialAnswer, Tensor] = {}
        self.steps = -(-config.epochs * len(self.rows) // config.fit_batch)
        self.scorer = Scorer.begin(lm, "math" if lm.device.type == "cpu" else "sdpa")
        self.optimizer = torch.optim.AdamW(
            self.scorer.parameters(),
            lr=config.lr,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
        )
        self.step, self.seconds, self.saved = 0, 0.0, 0
        if config.compile_fit:
            self.scorer.trunk.compile_layers(dynamic=True)
        self._resume()

    @property
    def state_file(self) -> Path:
        """Where the whole state of the run is kept."""
        return self.folder / "state.pt"

    def _about(self) -> dict[str, Any]:
        """What a run must have in common with the one whose state it takes up."""
        free = ("save_every", "compile_fit")
        mine = {
            name: value
            for name, value in dataclasses.asdict(self.config).items()
            if name not in free
        }
        return {**mine, "labels": labels_digest(self.labels), "model": self.labels.identity.model}

    def _resume(self) -> None:
        if not self.state_file.exists():
            return
        try:
            state = torch.load(self.state_file, map_location=self.lm.device, weights_only=True)
            about = dict(state["about"])
        except (
            OSError,
            RuntimeError,
            EOFError,
            LookupError,
            TypeError,
            ValueError,
            pickle.UnpicklingError,
        ) as error:
            hint = "Remove it to begin anew, or use another --out folder."
            raise OptionError(
                "the state of a run cannot be read", given=str(self.state_file), hint=hint
            ) from error
        for name, value in self._about().items():
            if about.get(name) != value:
                given, allowed = str(value), str(state["about"].get(name))
                raise OptionError(
                    f"{self.state_file} is of a run with another {name}",
                    given=given,
                    allowed=allowed,
                    hint="Use another --out folder.",
                )
        self.scorer.load_state_dict(state["scorer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.saved = self.step

    def save(self) -> None:
        """Write the state; a kill leaves the old or the new file."""
        state = {
            "about": self._about(),
            "scorer": self.scorer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_state(self.state_file, {**state, "step": self.step, "seconds": self.seconds})
        self.saved = self.step

    def batch(self, step: int) -> list[tuple[PartialAnswer, ...]]:
        """The rows of a step: the next ones of an endless order in which all come once before any
        comes again, sorted by length.
        """
        chosen, size = [], self.config.fit_batch
        for at in range(step * size, (step + 1) * size):
            turn, place = divmod(at, len(self.rows))
            chosen.append(self.rows[self._order(turn)[place]])
        return sorted(chosen, key=lambda chain: row_width(chain, self.feed))

    def _order(self, turn: int) -> list[int]:
        if turn not in self._orders:
            self._orders = {
                turn: random.Random(f"{self.config.seed}/{turn}").sample(
                    range(len(self.rows)), len(self.rows)
                )
            }
        return self._orders[turn]

    def weights(self, rows: Sequence[Sequence[PartialAnswer]]) -> list[float]:
        """What the loss of each state of a step weighs: both buckets 1/2, in each a state by its
        count, however many rows it is in.
        """
        states = [state for chain in rows for state in chain]
        shares = [self.count(self.labels_of[state]) / self.shared[state] for state in states]
        high = [self.labels_of[state].value >= 0.5 for state in states]
        whole = {True: 0.0, False: 0.0}
        for bucket, share in zip(high, shares):
            whole[bucket] += share
        return [share / whole[bucket] / 2 for bucket, share in zip(high, shares)]

    def count(self, label: Label) -> int:
        """How often a label counts: an outcome verifier's as often as its answer was drawn."""
        return label.draws if self.config.outcome else 1

    def loss(self, rows: Sequence[Sequence[PartialAnswer]], weights: Sequence[float]) -> Tensor:
        """Weighted cross-entropy against the soft labels, in nats."""
        device = self.lm.device
        target = torch.tensor(
            [self.labels_of[state].value for chain in rows for state in chain], device=device
        )
        with torch.autocast(device.type, torch.bfloat16):
            odds = self.scorer(
                pack(rows, self.feed, self._surprise(rows), LENGTH_MULTIPLE).to(device)
            )
        return F.binary_cross_entropy_with_logits(
            odds, target, torch.tensor(weights, device=device), reduction="sum"
        )

    def _surprise(self, rows: Sequence[Sequence[PartialAnswer]]) -> list[Tensor]:
        """The base model's surprise, which stays what it is: asked for once."""
        new = [chain[-1] for chain in rows if chain[-1] not in self._surprises]
        if new:
            self._surprises.update(
                zip(new, token_surprisal(network(self.lm), new, self.feed.mask_id))
            )
        return [self._surprises[chain[-1]] for chain in rows]

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns what is logged of it."""
        self.scorer.train()
        peak = learning_rate(self.step, self.steps, self.config.lr, max(1, self.steps // 20))
        chosen, total = self.batch(self.step), 0.0
        weights = iter(self.weights(chosen))
        size = -(-len(chosen) // self.config.parts)
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            loss = self.loss(part, [next(weights) for chain in part for _ in chain])
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.scorer.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = peak
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {"step": self.step, "lr": peak, "loss": round(total, 5)}

    def run(self) -> Iterator[dict[str, float]]:
        """Learn to the end, yielding a record a step, also in log.jsonl; then the verifier lies in
        the folder.
        """
        truncate_log(self.folder / LOG, self.step + 1)
        while self.step < self.steps:
            began = time.perf_counter()
            record = self.train_step()
            self.seconds += time.perf_counter() - began
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps({**record, "seconds": round(self.seconds, 1)}) + "\n")
            if self.step == self.steps or self.step % self.config.save_every == 0:
                self.save()
            yield record
        scale, shift = self.calibrate()
        parts = {
            field.name: len(getattr(self.division, field.name))
            for field in dataclasses.fields(self.division)
        }
        more = {
            "steps": self.steps,
            "states": parts,
            "buckets": list(map(len, self.division.buckets)),
            "odds": [scale, shift],
        }
        settings = {**dataclasses.asdict(self.config), **more, "labels": labels_digest(self.labels)}
        write_verifier(self.folder, self.scorer, self.labels.identity, settings)

    def calibrate(self) -> tuple[float, float]:
        """Fit scale and shift of the log-odds on the problems kept for it, and lay them into the
        last layer; 1 and 0 where there are none.
        """
        aside = self.division.calibration
        if not aside:
            return 1.0, 0.0
        verifier = Verifier(network(self.lm), self.scorer, self.feed, self.config.fit_batch)
        with torch.autocast(self.lm.device.type, torch.bfloat16):
            odds = verifier.q([label.state for label in aside]).double().logit(eps=1e-6)
        target = torch.tensor([label.value for label in aside], dtype=torch.double)
        counts = torch.tensor([self.count(label) for label in aside], dtype=torch.double)
        scale, shift = fit_log_odds(odds, target, counts)
        with torch.no_grad():
            self.scorer.value.weight.mul_(scale)
            self.scorer.value.bias.mul_(scale).add_(shift)
        return scale, shift


def fit_log_odds(
    odds: Tensor, target: Tensor, counts: Tensor | None = None, prior: float = 1.0
) -> tuple[float, float]:
    """Scale and shift of log-odds [n] that fit `target` [n] best, each counted `counts` [n] times.

    `prior` states' worth of weight holds them near 1 and 0.
    """
    found = torch.tensor([1.0, 0.0], dtype=torch.double, requires_grad=True)
    plain = torch.tensor([1.0, 0.0], dtype=torch.double)
    solver = torch.optim.LBFGS([found], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        fitted = found[0] * odds + found[1]
        misfit = F.binary_cross_entropy_with_logits(fitted, target, counts, reduction="sum")
        loss = misfit + prior * (found - plain).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    scale, shift = found.detach().tolist()
    return scale, shift
