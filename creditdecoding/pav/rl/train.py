"""Policy gradient on the steps of answers: a masked-diffusion model learns from what its verifier
says of each step (arXiv 2410.08146, section 5).

An iteration draws answers with the current weights, weighs the score function of each step by its
reward less a baseline (rewards.py), and
takes one step of Adam on

    mean over answers of [ - sum over steps of weight * log pi(step) + kl * sum over tokens of KL(pi
    || first pi) ]

With candidates further draws of each step are weighed beside the one taken (candidates.py), and the
first sum is over the mean of them.

The weights that learn are float32; the model that samples is a copy in the type it was loaded in,
renewed after every step. A run is
a folder: log.jsonl, a record an iteration; state.pt, replaced whole, so that a run that was killed
goes on where it stopped and ends as if it
had not been; the checkpoint.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import load, settings
from creditdecoding.errors import OptionError
from creditdecoding.fingerprint import model_identity
from creditdecoding.lm import LM
from creditdecoding.pav.rl.logprobs import (
    VALUES,
    ScoredPass,
    batches,
    distributions,
    divergence,
    refuse_unscored,
    scored_passes,
    token_logprobs,
    with_end,
)
from creditdecoding.pav.rl.options import RLConfig
from creditdecoding.pav.rl.policy_weights import (
    cosine,
    export,
    learning_copy,
    refuse_unwritable,
    sync_sampler,
)
from creditdecoding.pav.rl.rewards import baseline, needs_values, rewards, step_reward, whiten
from creditdecoding.pav.rl.step_rloo import (
    StepSample,
    leave_one_out_weights,
    sample_steps,
    sides,
    split_weights,
)
from creditdecoding.pav.sampler import Rollout, RolloutRequest, Sampler
from creditdecoding.pav.steps import PartialAnswer, task_delimiter
from creditdecoding.run_dir import open_run
from creditdecoding.run_dir import write_atomically as write_whole
from creditdecoding.tasks.base import Item, Task, distinct_items
from creditdecoding.train.rows import draw_items
from creditdecoding.train.schedule import save_state

STATE, LOG = "state.pt", "log.jsonl"
COUNTS = ("iteration", "samples", "sequences", "judged", "seconds")


class Judge(Protocol):
    """What says how likely the base policy ends states right: a `Verifier`. `sequences` counts what
    it has run.
    """

    sequences: int

    def q(self, states: Sequence[PartialAnswer]) -> Float[Tensor, " n"]:
        """Q^pi of each state."""
        ...


FREE = ("iterations", "save_every", "eval_every")
"""Options with which a run may go on though it began with others."""


@dataclass(frozen=True)
class ScoredAnswer:
    """A drawn answer and its verdict."""

    item: Item
    drawn: Rollout
    right: bool


class PolicyTraining:
    """One run in a folder. `lm` samples, and its weights are changed; `source` is its checkpoint's
    folder, None to write none in the end.
    """

    def __init__(
        self,
        lm: LM,
        families: Sequence[Task],
        generation: GenerationConfig,
        config: RLConfig,
        judge: Judge | None,
        folder: Path,
        source: Path | None = None,
        compile: bool = False,
    ) -> None:
        refuse_unscored(lm, generation, config.tokens)
        if source is not None:
            refuse_unwritable(lm)
        if judge is None and needs_values(config.arm, config.baseline):
            raise OptionError(
                "this arm asks a verifier",
                given=config.arm,
                hint="Give --verifier, or --arm outcome with --baseline others.",
            )
        self.lm, self.families, self.generation, self.config, self.judge = (
            lm,
            list(families),
            generation,
            config,
            judge,
        )
        self.folder, self.source = folder, source
        self.marks = {family.name: task_delimiter(family, config.delimiter) for family in families}
        self.held = [
            item for family in families for item in held_out_items(family, config.eval_limit)
        ]
        self.model, self.first = learning_copy(lm, compile, config.learn)
        self.about = {
            "kind": "rl",
            **asdict(model_identity(lm)),
            "tasks": [family.name for family in families],
            **{name: value for name, value in asdict(config).items() if name not in FREE},
            "generation": {**asdict(generation), "decoder": settings(load(generation.decoder)[0])},
        }
        self.learning = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.Adam(self.learning, lr=config.lr, betas=(0.9, 0.95))
        self.half = next(self.first.parameters()).dtype
        self.iteration, self.samples, self.sequences, self.judged, self.seconds = 0, 0, 0, 0, 0.0
        self.saved = 0
        self.score = {family.name: family.score for family in families}

    def run(self) -> Iterator[dict[str, Any]]:
        """Learn to the end, yielding a record an iteration; number 0 is before the first. Raises
        `OptionError` in a folder of another run.
        """
        with open_run(self.folder, self.about):
            self._resume()
            past = [
                record for record in records(self.folder) if record["iteration"] <= self.iteration
            ]
            write_whole(self.folder / LOG, "".join(json.dumps(record) + "\n" for record in past))
            if not past:
                yield self._log(
                    {
                        "iteration": 0,
                        "samples": 0,
                        "sequences": 0,
                        "judged": 0,
                        "held": self.measure(),
                    }
                )
            while self.iteration < self.config.iterations:
                yield self._iterate()
            if self.source is not None:
                export(self.lm.model, self.source, self.folder)

    def _iterate(self) -> dict[str, Any]:
        """One iteration, measured, logged and saved where it is time."""
        began = time.perf_counter()
        record = self.step()
        self.seconds += time.perf_counter() - began
        record["seconds"] = round(self.seconds, 2)
        last = self.iteration == self.config.iterations
        if last or self.iteration % self.config.eval_every == 0:
            record["held"] = self.measure()
        self._log(record)
        if last or self.iteration % self.config.save_every == 0:
            self.save()
        return record

    def step(self) -> dict[str, Any]:
        """One iteration: answers, their weights, a step of the optimiser; what is logged of it."""
        rng, before = (
            random.Random(f"{self.generation.seed}/{self.iteration}"),
            self.judge.sequences if self.judge else 0,
        )
        items = [
            item
            for item in problems(self.families, self.config.problems, rng)
            for _ in range(self.config.samples)
        ]
        answers = self.draw(items, [rng.getrandbits(60) for _ in items])
        others = self.others(answers, rng) if self.config.candidates > 1 else []
        weights = self.weights_beside(answers, others) if others else self.weights(answers)
        self.iteration += 1
        self.samples += len(answers)
        lessons = [*(each.drawn for each in answers), *(other.as_one_step for other in others)]
        self.sequences += sum(each.cost.sequences for each in lessons)
        self.judged += self.judge.sequences - before if self.judge else 0
        of = [*range(len(answers)), *(other.answer for other in others)]
        found = self.learn(
            lessons, weights, [place // self.config.samples for place in of], len(answers)
        )
        flat = torch.cat(weights)
        return {
            "iteration": self.iteration,
            "samples": self.samples,
            "sequences": self.sequences,
            "judged": self.judged,
            "right": round(sum(each.right for each in answers) / len(answers), 4),
            "passes": round(sum(each.drawn.cost.passes for each in answers) / len(answers), 3),
            "steps": len(flat),
            "weight": round(float(flat.mean()), 4),
            "spread": round(float(flat.square().mean().sqrt()), 4),
            **found,
        }

    def draw(self, items: Sequence[Item], seeds: Sequence[int]) -> list[ScoredAnswer]:
        """An answer to each item by the weights as they are, with its verdict."""
        sampler = Sampler(self.lm, self.generation, self.lm.batch_size)
        asks = [
            RolloutRequest(
                PartialAnswer(tuple(self.lm.encode(item.prompt))), self.marks[item.task], seed
            )
            for item, seed in zip(items, seeds)
        ]
        found: dict[int, ScoredAnswer] = {}
        for place, drawn in sampler.draw(asks):
            state = with_end(drawn.state, self.marks[items[place].task], self.lm.vocab.decode)
            found[place] = ScoredAnswer(
                items[place], replace(drawn, state=state), self._right(state, items[place])
            )
        return [found[place] for place in range(len(items))]

    def _right(self, state: PartialAnswer, item: Item) -> bool:
        """Whether a complete answer is."""
        return self.score[item.task](self.lm.text(state.written, self.generation), item)

    def weights(self, answers: Sequence[ScoredAnswer]) -> list[Float[Tensor, " steps"]]:
        """What the score function of each step of each answer is weighed by."""
        config, count = self.config, self.config.samples
        states = [state for each in answers for state in each.drawn.state.prefixes[:-1]]
        asked = self.judge is not None and needs_values(config.arm, config.baseline)
        q = self.judge.q(states) if self.judge is not None and asked else torch.zeros(len(states))
        found = []
        for place, (each, before) in enumerate(
            zip(answers, q.split([each.drawn.state.depth for each in answers]))
        ):
            values = torch.cat((before, torch.tensor([float(each.right)])))
            first = place - place % count
            others = (
                sum(other.right for other in answers[first : first + count]) - each.right
            ) / max(1, count - 1)
            found.append(
                rewards(config.arm, values, config.alpha, config.k)
                - baseline(config.baseline, values, others)
            )
        return found

    def others(self, answers: Sequence[ScoredAnswer], rng: random.Random) -> list[StepSample]:
        """Further draws of each step of the answers."""
        sampler = Sampler(self.lm, self.generation, self.lm.batch_size, share=True)
        marks, seeds = (
            [self.marks[each.item.task] for each in answers],
            iter(lambda: rng.getrandbits(60), None),
        )
        return sample_steps(
            [each.drawn for each in answers], marks, self.config.candidates - 1, sampler, seeds
        )

    def weights_beside(
        self, answers: Sequence[ScoredAnswer], others: Sequence[StepSample]
    ) -> list[Float[Tensor, " steps"]]:
        """What the score function is weighed by of each step of each answer, then of each other
        draw: its reward less those beside it.
        """
        assert self.judge is not None
        before, behind = sides([each.drawn.state for each in answers], others)
        known = {each.drawn.state: float(each.right) for each in answers}
        for state, item in ((other.drawn.state, answers[other.answer].item) for other in others):
            if state.done and state not in known:
                known[state] = float(self._right(state, item))
        unknown = [
            state
            for state in dict.fromkeys((*before, *(state for line in behind for state in line)))
            if state not in known
        ]
        known.update(zip(unknown, self.judge.q(unknown).tolist()))
        worth = torch.tensor([[known[state] for state in line] for line in behind])
        was = torch.tensor([known[state] for state in before])[:, None].expand_as(worth)
        found = leave_one_out_weights(
            step_reward(self.config.arm, was, worth, self.config.alpha, self.config.k)
        )
        return split_weights(found, [each.drawn.state.depth for each in answers])

    def learn(
        self,
        lessons: Sequence[Rollout],
        weights: Sequence[Tensor],
        problem: Sequence[int],
        answers: int,
    ) -> dict[str, float | None]:
        """One step of the optimiser: the gradient's norm, the cosine of its halves, and KL from the
        first policy in nats a token.

        The first `answers` lessons are the answers, the others further draws of their steps;
        `problem` says of which problem each is. What halves
        of the problems say of the gradient agrees as far as it is more than noise; None where there
        is one problem.
        """
        weights = [
            each / self.config.candidates
            for each in (whiten(weights) if self.config.normalise else weights)
        ]
        every, middle = (
            scored_passes(self.lm, lessons, self.config.tokens),
            self.config.problems // 2,
        )
        lines = max(1, VALUES // self.lm.vocab.size)
        total, tokens, first = 0.0, 0.0, list[Tensor | None]()
        for late in (False, True):
            first = [
                None if weight.grad is None else weight.grad.clone() for weight in self.learning
            ]
            half = [each for each in every if (problem[each.answer] >= middle) == late]
            for batch in batches(half, self.lm.batch_size, lines):
                far, counted = self._backward(batch, weights, answers)
                total, tokens = total + far, tokens + counted
        agree = cosine(first, [weight.grad for weight in self.learning])
        norm = torch.nn.utils.clip_grad_norm_(self.learning, self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        sync_sampler(self.lm, self.model)
        return {
            "gradient": round(float(norm), 4),
            "agree": agree,
            "kl": round(total / max(1.0, tokens), 5),
        }

    def _backward(
        self, batch: Sequence[ScoredPass], weights: Sequence[Tensor], answers: int
    ) -> tuple[float, float]:
        """Add the gradient of some passes; the sum of KL over the answers' tokens among them, and
        how many these are.
        """
        weight = torch.cat([weights[each.answer][list(each.steps)] for each in batch]).to(
            self.lm.device
        )
        with torch.autocast(self.lm.device.type, self.half, enabled=self.half.itemsize == 2):
            found = distributions(self.model, self.lm, batch, self.generation.temperature)
        with torch.inference_mode():
            base = distributions(self.first, self.lm, batch, self.generation.temperature)
        own = torch.tensor(
            [float(each.answer < answers) for each in batch for _ in each.steps],
            device=found.of.device,
        )
        count = torch.zeros(len(found.logp), device=found.of.device).index_add(0, found.of, own)
        far = (divergence(found.logp, base.logp.clone()) * count).sum()
        loss = (
            self.config.kl * far
            - (weight * token_logprobs(found, batch, self.generation.temperature)).sum()
        ) / answers
        loss.backward()  # type: ignore[no-untyped-call]
        return float(far.detach()), float(own.sum())

    def measure(self) -> dict[str, Any]:
        """Accuracy on held-out problems, an answer each with the seeds 0, 1, ...: mean over
        families, by family, and passes an answer.
        """
        answers = self.draw(self.held, range(len(self.held)))
        by_family = {
            name: [each for each in answers if each.item.task == name] for name in self.marks
        }
        shares = {
            name: sum(each.right for each in found) / len(found)
            for name, found in by_family.items()
        }
        passes_ = sum(each.drawn.cost.passes for each in answers) / len(answers)
        return {
            "accuracy": round(sum(shares.values()) / len(shares), 5),
            "passes": round(passes_, 3),
            "families": shares,
            "items": len(answers),
        }

    def save(self) -> None:
        """Write the state; a kill at any moment leaves the old or the new file, never half of one."""
        counts = {name: getattr(self, name) for name in COUNTS}
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **counts,
        }
        save_state(self.folder / STATE, state)
        self.saved = self.iteration

    def _resume(self) -> None:
        """Take up the saved state, if there is one."""
        if not (self.folder / STATE).exists():
            return
        state = torch.load(self.folder / STATE, map_location=self.lm.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in COUNTS:
            setattr(self, name, state[name])
        self.saved = self.iteration
        sync_sampler(self.lm, self.model)

    def _log(self, record: dict[str, Any]) -> dict[str, Any]:
        with (self.folder / LOG).open("a") as file:
            file.write(json.dumps(record) + "\n")
        return record


def records(folder: Path) -> list[dict[str, Any]]:
    """The log of a run, by iteration; of one that was logged twice the later record, a torn last
    line left out.
    """
    found: dict[int, dict[str, Any]] = {}
    for line in (folder / LOG).read_text().splitlines() if (folder / LOG).exists() else ():
        try:
            record = json.loads(line)
            found[record["iteration"]] = record
        except ValueError:
            continue
    return [found[iteration] for iteration in sorted(found)]


def problems(families: Sequence[Task], count: int, rng: random.Random) -> list[Item]:
    """`count` items of the train split; of published questions those whose structure falls there."""
    listed = [
        item for family in families for item in family.fixed_items or () if item.split == "train"
    ]
    made = [family for family in families if family.fixed_items is None]
    if not made:
        return [rng.choice(listed) for _ in range(count)]
    return [
        rng.choice(listed) if listed and rng.randrange(len(families)) >= len(made) else item
        for item in draw_items(made, count, rng)
    ]


def held_out_items(family: Task, limit: int) -> list[Item]:
    """At most `limit` items of the dev split that no run learns from. Raises `OptionError` where
    there are none.
    """
    if family.fixed_items is None:
        return distinct_items(family, "dev", 0, limit)
    found = [item for item in family.fixed_items if item.split == "dev"][:limit]
    if not found or not any(item.split == "train" for item in family.fixed_items):
        what = "too few questions to learn from some and hold others out"
        raise OptionError(
            what,
            given=f"{len(family.fixed_items)} of {family.name}",
            allowed="about 40 or more",
            hint="Give more questions.",
        )
    return found
