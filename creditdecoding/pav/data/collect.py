"""Collects labels: runs a strategy for many problems at once and stores each finished problem.

problems = problems_of(lm, load_tasks("arithmetic"), config, generation)
with open_store(path, header(lm, "pocket", tasks, problems, ...)) as store:
    fill(store, lm, problems, config, generation)
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoders import settings
from creditdecoding.decoding.request import check_supported
from creditdecoding.errors import OptionError, prefix_errors
from creditdecoding.fingerprint import model_identity
from creditdecoding.lm import LM
from creditdecoding.pav.data.label_store import Label, LabelCost, LabelStore, StoreHeader
from creditdecoding.pav.data.options import CollectConfig
from creditdecoding.pav.data.strategies import STRATEGIES, label_answers
from creditdecoding.pav.driver import Search, run_searches
from creditdecoding.pav.problems import Problem, ProblemKey, make_problem
from creditdecoding.pav.sampler import Cost, Rollout, Sampler
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.tasks.base import Split, Task, distinct_items

ENGINE_SETTINGS = ("dtype", "quantize", "causal_block")
"""Engine options that answers depend on."""


def problems_of(
    lm: LM, tasks: Sequence[Task], config: CollectConfig, generation: GenerationConfig
) -> list[Problem]:
    """The problems to label, task by task.

    Raises `OptionError` if a task has no delimiter, a prompt does not fit, or all draws would be
    equal.
    """
    if generation.temperature == 0 or generation.top_k == 1:
        raise OptionError(
            "without noise all completions of a state are alike",
            given=f"temperature {generation.temperature}, top_k {generation.top_k}",
            hint="Give a temperature above 0, such as --temperature 1, and no --top-k 1.",
        )
    split = cast(Split, config.split)
    problems = []
    for task in tasks:
        items = distinct_items(task, split, config.item_seed, config.limit)
        for number, item in enumerate(items):
            with prefix_errors(f"item {number + 1} of {task.name}"):
                problem = make_problem(
                    lm, task, number, item, generation, config.delimiter, config.raw
                )
                lm.new_request(problem.prompt, generation)
            problems.append(problem)
    if not problems:
        raise OptionError(
            "there are no problems", given=config.split, hint="Choose another split or other tasks."
        )
    return problems


def header(
    lm: LM,
    model: str,
    tasks: Sequence[Task],
    problems: Sequence[Problem],
    config: CollectConfig,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> StoreHeader:
    """The first line of a store of these labels."""
    texts = (
        f"({problem.key!r}, {problem.root.digest_text}, {problem.delimiter!r})"
        for problem in problems
    )
    questions = hashlib.blake2b(f"[{', '.join(texts)}]".encode(), digest_size=8)
    about = {
        "model": model,
        "tasks": [task.name for task in tasks],
        "questions": questions.hexdigest(),
        **dataclasses.asdict(config),
        **dataclasses.asdict(generation),
        "decoder": settings(check_supported(generation.decoder, lm.geometry)),
        **{name: getattr(engine, name) for name in ENGINE_SETTINGS},
    }
    return StoreHeader(model_identity(lm), about, len(problems))


@dataclass(frozen=True)
class LabelledProblem:
    """A problem's labels, all complete answers drawn for them, and what they cost."""

    key: ProblemKey
    labels: tuple[Label, ...]
    cost: LabelCost
    answers: tuple[Label, ...] = ()


def collect(
    lm: LM,
    problems: Iterable[Problem],
    config: CollectConfig,
    generation: GenerationConfig,
    batch_size: int | None = None,
) -> Iterator[LabelledProblem]:
    """Label problems by the strategy that `config` names; yield each as it finishes.

    Labels do not depend on the batch size. Seconds are those since the last problem finished.
    """
    sampler = Sampler(lm, generation, batch_size, share=True)
    began = time.perf_counter()
    for finished in run_searches((_labelled(problem, config) for problem in problems), sampler):
        now = time.perf_counter()
        problem = finished.result
        yield dataclasses.replace(
            problem, cost=dataclasses.replace(problem.cost, seconds=now - began)
        )
        began = now


def fill(
    store: LabelStore,
    lm: LM,
    problems: Sequence[Problem],
    config: CollectConfig,
    generation: GenerationConfig,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Label the problems that a store does not have yet; `tick` is called for each."""
    missing = [problem for problem in problems if problem.key not in store.contents.labels]
    for problem in collect(lm, missing, config, generation):
        store.add(problem.key, problem.labels, problem.cost, problem.answers)
        tick()


def _labelled(problem: Problem, config: CollectConfig) -> Search[LabelledProblem]:
    """Run the strategy and note every complete answer and the cost of all rollouts."""
    strategy = STRATEGIES[config.strategy](problem, config)
    answers: list[PartialAnswer] = []
    cost = Cost()
    rollouts: list[Rollout] | None = None
    while True:
        try:
            request = strategy.send(rollouts)
        except StopIteration as stop:
            labels = tuple(stop.value)
            break
        rollouts = yield request
        for rollout in rollouts or ():
            answers.append(rollout.state)
            cost += rollout.cost
    return LabelledProblem(
        problem.key, labels, LabelCost(len(answers), cost), tuple(label_answers(problem, answers))
    )
