"""Policy gradient on the steps of answers: the model learns from its verifier's value of each step
(arXiv 2410.08146, section 5).

An iteration draws answers with the current weights, weighs the score function of each step by its
reward minus a baseline, and takes one step of Adam on

    mean over answers of [ - sum over steps of weight * log pi(step) + kl * sum over tokens of
    KL(pi || first pi) ]

With candidates, further draws of each step are weighed against the one taken, and the first sum is
over their mean.

The learning weights are float32; the model that samples is a copy in the type it was loaded in,
synchronised after every step. A run's folder holds log.jsonl, a record an iteration; state.pt, so
that a killed run continues and ends as if it had not been killed; in the end the checkpoint.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import load, settings
from creditdecoding.errors import OptionError
from creditdecoding.fingerprint import model_identity
from creditdecoding.lm import LM
from creditdecoding.pav.driver import ValueModel
from creditdecoding.pav.rl.logprobs import (
    MAX_TABLE_VALUES,
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
    split_weights,
    successors,
)
from creditdecoding.pav.sampler import Rollout, RolloutRequest, Sampler
from creditdecoding.pav.steps import PartialAnswer, task_delimiter
from creditdecoding.run_dir import ResumableRun, open_run, read_log
from creditdecoding.tasks.base import Item, Task, distinct_items
from creditdecoding.train.rows import draw_items

COUNTS = ("iteration", "samples", "sequences", "judged", "seconds")
"""The counters of a run, as they are saved."""
FREE_OPTIONS = ("iterations", "save_every", "eval_every")
"""Options that may differ when a run continues."""
MANIFEST_TOKENS = {"committed": "written", "all_draws": "drawn"}
"""Manifests keep the names of earlier versions, so that old runs continue."""


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer to an item, and whether it is correct."""

    item: Item
    rollout: Rollout
    correct: bool

    @property
    def state(self) -> PartialAnswer:
        """The complete answer."""
        return self.rollout.state


class PolicyTraining:
    """A run in a folder. `lm` samples, and its weights are changed.

    `source` is the folder of its checkpoint; None writes no checkpoint in the end.
    """

    def __init__(
        self,
        lm: LM,
        tasks: Sequence[Task],
        generation: GenerationConfig,
        config: RLConfig,
        value_model: ValueModel | None,
        folder: Path,
        source: Path | None = None,
        compile: bool = False,
    ) -> None:
        refuse_unscored(lm, generation)
        if source is not None:
            refuse_unwritable(lm)
        if value_model is None and needs_values(config.arm, config.baseline):
            raise OptionError(
                "this arm needs a verifier",
                given=config.arm,
                hint="Give --verifier, or --arm outcome with --baseline others.",
            )
        self.lm = lm
        self.tasks = {task.name: task for task in tasks}
        self.generation = generation
        self.config = config
        self.value_model = value_model
        self.folder = folder
        self.source = source
        self.delimiters = {task.name: task_delimiter(task, config.delimiter) for task in tasks}
        self.held_out = [item for task in tasks for item in held_out_items(task, config.eval_limit)]
        self.model, self.first_model = learning_copy(lm, compile)
        self.weights = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.weights, lr=config.lr, betas=(0.9, 0.95))
        self.sampling_dtype = next(self.first_model.parameters()).dtype
        self.counts: dict[str, Any] = dict.fromkeys(COUNTS, 0)
        self.resumable = ResumableRun(folder, None, step_key="iteration")

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return int(self.counts["iteration"])

    @property
    def saved(self) -> int:
        """Iterations in the saved state."""
        return self.resumable.saved_step

    def manifest(self) -> dict[str, Any]:
        """The settings of a run."""
        options = {k: v for k, v in asdict(self.config).items() if k not in FREE_OPTIONS}
        rule, _ = load(self.generation.decoder)
        return {
            "kind": "rl",
            **asdict(model_identity(self.lm)),
            "tasks": list(self.tasks),
            **options,
            "tokens": MANIFEST_TOKENS[self.config.tokens],
            "learn": "all",
            "generation": {**asdict(self.generation), "decoder": settings(rule)},
        }

    def run(self) -> Iterator[dict[str, Any]]:
        """Learn to the end and yield a record an iteration; number 0 is before the first.

        Raises `OptionError` in a folder of another run.
        """
        with open_run(self.folder, self.manifest()):
            self._resume()
            self.resumable.cut_log(self.iteration + 1)
            if not self.resumable.records():
                counts = dict.fromkeys(("iteration", "samples", "sequences", "judged"), 0)
                yield self._log({**counts, "held": self.evaluate()})
            while self.iteration < self.config.iterations:
                yield self._iterate()
            if self.source is not None:
                export(self.lm.model, self.source, self.folder)

    def _iterate(self) -> dict[str, Any]:
        """Run, measure, log and save one iteration."""
        began = time.perf_counter()
        record = self.step()
        self.counts["seconds"] += time.perf_counter() - began
        record["seconds"] = round(self.counts["seconds"], 2)
        is_last = self.iteration == self.config.iterations
        if is_last or self.iteration % self.config.eval_every == 0:
            record["held"] = self.evaluate()
        self._log(record)
        if is_last or self.iteration % self.config.save_every == 0:
            self.save()
        return record

    def step(self) -> dict[str, Any]:
        """Draw answers, weigh their steps, take an optimiser step; returns the log record."""
        config = self.config
        rng = random.Random(f"{self.generation.seed}/{self.iteration}")
        scored_before = self._scored_sequences()
        answers = self._draw_answers(rng)
        samples = self.step_samples(answers, rng) if config.candidates > 1 else []
        weights = self.rloo_weights(answers, samples) if samples else self.step_weights(answers)
        rollouts = [answer.rollout for answer in answers]
        rollouts += [sample.as_one_step for sample in samples]
        answer_of = [*range(len(answers)), *(sample.answer for sample in samples)]
        self.counts["iteration"] += 1
        self.counts["samples"] += len(answers)
        self.counts["sequences"] += sum(rollout.cost.sequences for rollout in rollouts)
        self.counts["judged"] += self._scored_sequences() - scored_before
        problem_of = [answer // config.samples for answer in answer_of]
        learned = self.learn(rollouts, weights, problem_of, len(answers))
        counts = {name: self.counts[name] for name in COUNTS if name != "seconds"}
        return {**counts, **_statistics(answers, torch.cat(weights)), **learned}

    def _draw_answers(self, rng: random.Random) -> list[JudgedAnswer]:
        """The answers of an iteration, `samples` for each problem."""
        problems = draw_problems(list(self.tasks.values()), self.config.problems, rng)
        items = [item for item in problems for _ in range(self.config.samples)]
        return self.draw(items, [rng.getrandbits(60) for _ in items])

    def _scored_sequences(self) -> int:
        return self.value_model.sequences if self.value_model is not None else 0

    def draw(self, items: Sequence[Item], seeds: Sequence[int]) -> list[JudgedAnswer]:
        """An answer to each item with the current weights, and its verdict."""
        sampler = Sampler(self.lm, self.generation)
        requests = [
            RolloutRequest(
                PartialAnswer(tuple(self.lm.encode(item.prompt))), self.delimiters[item.task], seed
            )
            for item, seed in zip(items, seeds)
        ]
        rollouts = dict(sampler.draw(requests))
        answers = []
        for index, item in enumerate(items):
            rollout = rollouts[index]
            state = with_end(rollout.state, self.delimiters[item.task], self.lm.vocab.decode)
            correct = self._is_correct(state, item)
            answers.append(JudgedAnswer(item, replace(rollout, state=state), correct))
        return answers

    def _is_correct(self, state: PartialAnswer, item: Item) -> bool:
        return self.tasks[item.task].score(self.lm.text(state.written, self.generation), item)

    def step_weights(self, answers: Sequence[JudgedAnswer]) -> list[Float[Tensor, " steps"]]:
        """The weight of the score function of each step of each answer."""
        config = self.config
        states = [state for answer in answers for state in answer.state.prefixes[:-1]]
        q = torch.zeros(len(states))
        if self.value_model is not None and needs_values(config.arm, config.baseline):
            q = self.value_model.q(states)
        weights = []
        for number, values in enumerate(q.split([answer.state.depth for answer in answers])):
            correct = answers[number].correct
            first = number - number % config.samples
            group = answers[first : first + config.samples]
            others_correct = sum(other.correct for other in group) - correct
            others_mean = others_correct / max(1, config.samples - 1)
            values = torch.cat((values, torch.tensor([float(correct)])))
            reward = rewards(config.arm, values, config.alpha, config.k)
            weights.append(reward - baseline(config.baseline, values, others_mean))
        return weights

    def step_samples(self, answers: Sequence[JudgedAnswer], rng: random.Random) -> list[StepSample]:
        """Further draws of each step of the answers."""
        sampler = Sampler(self.lm, self.generation, share=True)
        delimiters = [self.delimiters[answer.item.task] for answer in answers]
        seeds = iter(lambda: rng.getrandbits(60), None)
        rollouts = [answer.rollout for answer in answers]
        return sample_steps(rollouts, delimiters, self.config.candidates - 1, sampler, seeds)

    def rloo_weights(
        self, answers: Sequence[JudgedAnswer], samples: Sequence[StepSample]
    ) -> list[Float[Tensor, " steps"]]:
        """The weight of each step of each answer, then of each sample: its reward minus the mean
        of the other draws of the step.
        """
        before, after = successors([answer.state for answer in answers], samples)
        values = self._values(answers, samples, before, after)
        after_values = torch.tensor([[values[state] for state in states] for states in after])
        before_values = torch.tensor([values[state] for state in before])[:, None]
        reward = step_reward(
            self.config.arm,
            before_values.expand_as(after_values),
            after_values,
            self.config.alpha,
            self.config.k,
        )
        depths = [answer.state.depth for answer in answers]
        return split_weights(leave_one_out_weights(reward), depths)

    def _values(
        self,
        answers: Sequence[JudgedAnswer],
        samples: Sequence[StepSample],
        before: Sequence[PartialAnswer],
        after: Sequence[Sequence[PartialAnswer]],
    ) -> dict[PartialAnswer, float]:
        """Q^pi of all states; of complete answers their verdicts."""
        assert self.value_model is not None
        values = {answer.state: float(answer.correct) for answer in answers}
        for sample in samples:
            state = sample.rollout.state
            if state.done and state not in values:
                values[state] = float(self._is_correct(state, answers[sample.answer].item))
        states = dict.fromkeys((*before, *(state for states in after for state in states)))
        unknown = [state for state in states if state not in values]
        values.update(zip(unknown, self.value_model.q(unknown).tolist()))
        return values

    def learn(
        self,
        rollouts: Sequence[Rollout],
        weights: Sequence[Tensor],
        problem_of: Sequence[int],
        answers: int,
    ) -> dict[str, float | None]:
        """One optimiser step: the gradient's norm, the cosine of its halves, KL in nats a token.

        The first `answers` rollouts are the answers, the others further draws of their steps;
        `problem_of` is the problem of each. Halves of the problems give the same gradient as far as
        it is more than noise; None if there is one problem.
        """
        if self.config.normalise:
            weights = whiten(weights)
        weights = [steps / self.config.candidates for steps in weights]
        passes = scored_passes(self.lm, rollouts, self.config.tokens)
        middle = self.config.problems // 2
        early = [one for one in passes if problem_of[one.answer] < middle]
        late = [one for one in passes if problem_of[one.answer] >= middle]
        early_kl, early_tokens = self._accumulate(early, weights, answers)
        early_gradient = [grad if grad is None else grad.clone() for grad in self._gradient()]
        late_kl, late_tokens = self._accumulate(late, weights, answers)
        grad_cosine = cosine(early_gradient, self._gradient())
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        sync_sampler(self.lm, self.model)
        return {
            "gradient": round(float(norm), 4),
            "grad_cosine": grad_cosine,
            "kl": round((early_kl + late_kl) / max(1.0, early_tokens + late_tokens), 5),
        }

    def _gradient(self) -> list[Tensor | None]:
        return [weight.grad for weight in self.weights]

    def _accumulate(
        self, passes: Sequence[ScoredPass], weights: Sequence[Tensor], answers: int
    ) -> tuple[float, float]:
        """Add the gradient of passes; the sum of KL over the answers' tokens, and their number."""
        kl = 0.0
        tokens = 0.0
        lines = max(1, MAX_TABLE_VALUES // self.lm.vocab.size)
        for batch in batches(passes, self.lm.batch_size, lines):
            batch_kl, batch_tokens = self._backward(batch, weights, answers)
            kl += batch_kl
            tokens += batch_tokens
        return kl, tokens

    def _backward(
        self, batch: Sequence[ScoredPass], weights: Sequence[Tensor], answers: int
    ) -> tuple[float, float]:
        """Add the gradient of one batch; returns as `_accumulate`."""
        device = self.lm.device
        temperature = self.generation.temperature
        is_half = self.sampling_dtype.itemsize == 2
        with torch.autocast(device.type, self.sampling_dtype, enabled=is_half):
            table = distributions(self.model, self.lm, batch, temperature)
        with torch.inference_mode():
            first = distributions(self.first_model, self.lm, batch, temperature)
        token_weights = torch.cat([weights[one.answer][list(one.steps)] for one in batch])
        in_answer = [float(one.answer < answers) for one in batch for _ in one.steps]
        counted = torch.tensor(in_answer, device=table.line.device)
        line_kl = divergence(table.logp, first.logp.clone())
        kl = (line_kl * table.count_by_line(counted)).sum()
        gain = (token_weights.to(device) * token_logprobs(table, batch)).sum()
        loss = (self.config.kl * kl - gain) / answers
        loss.backward()  # type: ignore[no-untyped-call]
        return float(kl.detach()), float(counted.sum())

    def evaluate(self) -> dict[str, Any]:
        """Accuracy on held-out problems, an answer each with the seeds 0, 1, ...: the mean over
        tasks, by task, and passes an answer.
        """
        answers = self.draw(self.held_out, range(len(self.held_out)))
        by_task: dict[str, list[bool]] = {name: [] for name in self.tasks}
        for answer in answers:
            by_task[answer.item.task].append(answer.correct)
        shares = {name: sum(correct) / len(correct) for name, correct in by_task.items()}
        passes = sum(answer.rollout.cost.passes for answer in answers) / len(answers)
        return {
            "accuracy": round(sum(shares.values()) / len(shares), 5),
            "passes": round(passes, 3),
            "families": shares,
            "items": len(answers),
        }

    def save(self) -> None:
        """Write the state; a kill leaves the old or the new file."""
        model, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        self.resumable.save({"model": model, "optimizer": optimizer, **self.counts})

    def _resume(self) -> None:
        """Continue from the saved state, if there is one."""
        state = self.resumable.load(self.lm.device)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.counts = {name: state[name] for name in COUNTS}
            sync_sampler(self.lm, self.model)

    def _log(self, record: dict[str, Any]) -> dict[str, Any]:
        self.resumable.log(record)
        return record


def _statistics(answers: Sequence[JudgedAnswer], weights: Tensor) -> dict[str, Any]:
    """What is logged of an iteration's answers and of the weights of their steps."""
    count = len(answers)
    return {
        "right": round(sum(answer.correct for answer in answers) / count, 4),
        "passes": round(sum(answer.rollout.cost.passes for answer in answers) / count, 3),
        "steps": len(weights),
        "weight": round(float(weights.mean()), 4),
        "spread": round(float(weights.square().mean().sqrt()), 4),
    }


def records(folder: Path) -> list[dict[str, Any]]:
    """The log of the run in a folder, by iteration."""
    return read_log(folder / "log.jsonl", "iteration")


def draw_problems(tasks: Sequence[Task], count: int, rng: random.Random) -> list[Item]:
    """`count` items of the train split; of published questions, those whose structure is in it."""
    fixed = [item for task in tasks for item in task.fixed_items or () if item.split == "train"]
    generated = [task for task in tasks if task.fixed_items is None]
    if not generated:
        return [rng.choice(fixed) for _ in range(count)]
    items = []
    for item in draw_items(generated, count, rng):
        is_fixed = bool(fixed) and rng.randrange(len(tasks)) >= len(generated)
        items.append(rng.choice(fixed) if is_fixed else item)
    return items


def held_out_items(task: Task, limit: int) -> list[Item]:
    """At most `limit` items of the dev split, which no run learns from.

    Raises `OptionError` if there are none.
    """
    if task.fixed_items is None:
        return distinct_items(task, "dev", 0, limit)
    items = [item for item in task.fixed_items if item.split == "dev"][:limit]
    if not items or not any(item.split == "train" for item in task.fixed_items):
        raise OptionError(
            "too few questions to learn from some and hold others out",
            given=f"{len(task.fixed_items)} of {task.name}",
            allowed="about 40 or more",
            hint="Give more questions.",
        )
    return items
