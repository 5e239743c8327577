"""Runs searches over problems at many budgets, one line each in a run's folder.

A run that was killed continues where it stopped. Methods that choose among whole answers share one
pool of answers a problem, drawn and scored once; their choice at every budget is read from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoders import origins
from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.fingerprint import checkpoint_digest, model_identity
from creditdecoding.lm import LM
from creditdecoding.options import parse_values, split_spec
from creditdecoding.pav.driver import ValueModel
from creditdecoding.pav.problems import Problem, ProblemKey, make_problem
from creditdecoding.pav.sampler import Sampler
from creditdecoding.pav.search.best_of_n import PICKS
from creditdecoding.pav.search.methods import check_search, search
from creditdecoding.pav.search.options import KNOBS, SearchConfig
from creditdecoding.pav.search.result import Candidate, SearchResult
from creditdecoding.pav.steps import PartialAnswer, task_delimiter
from creditdecoding.pav.verifier.model import verifier_folder
from creditdecoding.run_dir import Key, open_journal
from creditdecoding.tasks.base import Item, Split, Task, distinct_items

KEY = ("method", "n", "seed", "family", "item")
"""The fields that tell a line from all others of a run."""
POOL = "samples"
"""The method of lines that hold whole answers to choose from."""
NEUTRAL_ENGINE_OPTIONS = ("offline", "cache_dir", "batch_size")
"""Engine options that lines do not depend on."""


@dataclass(frozen=True)
class SearchPlan:
    """All that decides the lines of a run.

    `methods` are specs (`beam:c=2`), `sizes` budgets, `verifier` and `outcome` folders.
    `step_sizes` are the budgets of methods that go step by step; by default `sizes`.
    """

    tasks: tuple[Task, ...]
    methods: tuple[str, ...]
    sizes: tuple[int, ...]
    limit: int
    generation: GenerationConfig
    verifier: str = ""
    outcome: str = ""
    seeds: int = 1
    split: Split = "test"
    engine: EngineConfig = EngineConfig()
    step_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.sizes or min((*self.sizes, *self.step_sizes)) < 1:
            raise OptionError(
                "there is no budget",
                given=self.sizes,
                allowed="whole numbers above 0",
                hint="Write them as: --n 1,2,4,8",
            )
        if not self.methods or self.limit < 2:
            raise OptionError(
                "nothing to compare",
                given=f"{len(self.methods)} methods, {self.limit} problems",
                hint="Give a method and two problems.",
            )
        for task in self.tasks:
            task_delimiter(task)
        for spec in self.methods:
            parse_method(spec, max(self.sizes))

    @property
    def step_budgets(self) -> tuple[int, ...]:
        """The budgets of methods that go step by step."""
        return self.step_sizes or self.sizes

    @property
    def searches(self) -> list[str]:
        """The methods that go step by step."""
        return [spec for spec in self.methods if parse_method(spec).method not in PICKS]

    @property
    def picks(self) -> list[str]:
        """The methods that choose among whole answers."""
        return [spec for spec in self.methods if parse_method(spec).method in PICKS]

    @property
    def cells(self) -> list[tuple[str, int, int]]:
        """What is drawn for every problem: method or pool, budget, seed."""
        cells = [(POOL, max(self.sizes))] if self.picks else []
        cells += [(spec, n) for n in self.step_budgets for spec in self.searches]
        return [(spec, n, seed) for spec, n in cells for seed in range(self.seeds)]

    @cached_property
    def items(self) -> Mapping[ProblemKey, Item]:
        """The problems by task and number. Raises `OptionError` if a task has too few."""
        return choose_items(self.tasks, self.split, self.limit)

    @property
    def order(self) -> list[Key]:
        """The keys of all lines of the finished file."""
        return [(*cell, *key) for cell in self.cells for key in self.items]

    def problems(self, lm: LM, seed: int) -> list[Problem]:
        """The problems with the draws of seed number `seed`."""
        generation = dataclasses.replace(self.generation, seed=self.generation.seed + seed)
        return make_problems(self.tasks, self.items, lm, generation)


def choose_items(tasks: Sequence[Task], split: Split, limit: int) -> dict[ProblemKey, Item]:
    """Items by task and number. Raises `OptionError` if a task has too few for an interval."""
    item_of: dict[ProblemKey, Item] = {}
    for task in tasks:
        items = distinct_items(task, split, 0, limit)
        if len(items) < 2:
            raise OptionError(
                f"{task.name} has too few {split} items for an interval",
                given=len(items),
                hint="Ask for more, or leave it out.",
            )
        item_of |= {(task.name, number): item for number, item in enumerate(items)}
    return item_of


def make_problems(
    tasks: Sequence[Task],
    items: Mapping[ProblemKey, Item],
    lm: LM,
    generation: GenerationConfig,
) -> list[Problem]:
    """Items as problems, those of similar length next to each other."""
    task_of = {task.name: task for task in tasks}
    problems = [
        make_problem(lm, task_of[name], number, item, generation)
        for (name, number), item in items.items()
    ]
    return sorted(problems, key=lambda problem: len(problem.prompt))


def parse_method(spec: str, n: int = 1) -> SearchConfig:
    """Read `NAME:knob=value,...` with budget `n` (`single` has none). Raises `OptionError`."""
    name, knobs = split_spec(spec, "method")
    if name not in KNOBS:
        raise unknown_name("method", name, KNOBS)
    if "n" in knobs or "method" in knobs:
        raise OptionError(
            "the budget is not part of a method", given=spec, hint="Give all budgets with --n."
        )
    known = {field.name for field in dataclasses.fields(SearchConfig)}
    for knob in knobs:
        if knob not in known:
            raise unknown_name(f"option of {name}", knob, KNOBS[name])
    budget = {"n": n} if "n" in KNOBS[name] else {}
    return SearchConfig(name, **budget, **parse_values(SearchConfig, knobs))


def manifest(plan: SearchPlan, lm: LM) -> dict[str, Any]:
    """What the lines of a folder depend on."""
    settings = search_settings(
        lm, plan.tasks, plan.items, plan.generation, plan.engine, plan.verifier, plan.outcome
    )
    settings["items"] |= {"split": plan.split, "limit": plan.limit}
    return {**settings, "cells": plan.cells}


def search_settings(
    lm: LM,
    tasks: Sequence[Task],
    items: Mapping[ProblemKey, Item],
    generation: GenerationConfig,
    engine: EngineConfig,
    verifier: str = "",
    outcome: str = "",
) -> dict[str, Any]:
    """What the results of searches depend on, apart from their methods."""
    texts = json.dumps([[*key, item.prompt, repr(item.gold)] for key, item in items.items()])
    identity = model_identity(lm)
    sources = origins([generation.decoder])
    return {
        "kind": "search",
        "model": {"model": identity.model, "tokenizer": identity.tokenizer},
        "behaviour": identity.behaviour,
        "verifier": verifier and checkpoint_digest(verifier_folder(verifier)),
        "outcome": outcome and checkpoint_digest(verifier_folder(outcome)),
        "tasks": {task.name: dict(task.metadata) for task in tasks},
        "items": {"texts": hashlib.blake2b(texts.encode(), digest_size=8).hexdigest()},
        "generation": dataclasses.asdict(generation),
        **({"sources": sources} if sources else {}),
        "engine": {
            name: value
            for name, value in vars(engine).items()
            if name not in NEUTRAL_ENGINE_OPTIONS
        },
    }


def run(
    plan: SearchPlan,
    folder: Path,
    lm: LM,
    value_model: ValueModel,
    outcome_model: ValueModel | None = None,
    on_start: Callable[[int, int], Callable[[], None]] = lambda done, total: lambda: None,
) -> list[dict[str, Any]]:
    """Run what is missing of a plan in its folder and return all lines, in order.

    `on_start` gets the number of lines that are there and the number of all, and returns a function
    that is called at each further line. Raises `OptionError`.
    """
    sampler = Sampler(lm, plan.generation, share=True)
    problems = [plan.problems(lm, seed) for seed in range(plan.seeds)]
    for spec, n, seed in plan.cells:
        check_search(_search_config(spec, n), problems[seed], sampler)
    with open_journal(folder, manifest(plan, lm), KEY, "cells") as journal:
        records = journal.read()
        tick = on_start(sum(key in records for key in plan.order), len(plan.order))
        with journal.writer() as append:
            for spec, n, seed in plan.cells:
                cell = (spec, n, seed)
                missing = [one for one in problems[seed] if (*cell, *one.key) not in records]
                for record in _run_cell(cell, missing, sampler, value_model, outcome_model):
                    append(record)
                    tick()
        records = journal.read()
        journal.finalize(records, plan.order)
        return [records[key] for key in plan.order]


def _search_config(spec: str, n: int) -> SearchConfig:
    return SearchConfig("certainty", n) if spec == POOL else parse_method(spec, n)


def _run_cell(
    cell: tuple[str, int, int],
    problems: Sequence[Problem],
    sampler: Sampler,
    value_model: ValueModel,
    outcome_model: ValueModel | None,
) -> Iterator[dict[str, Any]]:
    """The lines of a cell, as its problems finish."""
    spec, n, _ = cell
    for index, result in search(_search_config(spec, n), problems, sampler, value_model):
        problem = problems[index]
        if spec == POOL:
            fields = pool_record(result, problem, value_model, outcome_model)
        else:
            fields = answer_record(result, problem, sampler)
        yield {**dict(zip(KEY, (*cell, *problem.key))), **fields}


def answer_record(result: SearchResult, problem: Problem, sampler: Sampler) -> dict[str, Any]:
    """The answer of a search, whether it is right, and what it cost."""
    answer = result.answer
    spent = result.spent
    return {
        "text": sampler.text(answer.state),
        "right": problem.judge(answer.state),
        "q": answer.q,
        "sequences": spent.policy.sequences,
        "verifier_sequences": spent.verifier.sequences,
        "tokens": spent.policy.tokens,
        "positions": spent.policy.positions + spent.verifier.positions,
        "seconds": round(spent.seconds + spent.verifier_seconds, 5),
    }


def pool_record(
    result: SearchResult,
    problem: Problem,
    value_model: ValueModel,
    outcome_model: ValueModel | None,
) -> dict[str, Any]:
    """A pool of answers as columns.

    Equal numbers in `passes` are passes that run once. `same` is the index of the first equal
    answer; a verifier reads equal answers once.
    """
    assert problem.extract_answer is not None
    answers = result.finished
    states = [answer.state for answer in answers]
    distinct = list(dict.fromkeys(states))
    q, seconds = _timed_q(value_model, distinct)
    outcome_q: dict[PartialAnswer, float] | None = None
    if outcome_model is not None:
        outcome_q, seconds = _timed_q(outcome_model, distinct)
    return {
        "vote": [problem.extract_answer(state.written) for state in states],
        "right": [problem.judge(state) for state in states],
        "same": [states.index(state) for state in states],
        "logprob": [round(answer.logprob, 4) for answer in answers],
        "tokens": [answer.tokens for answer in answers],
        "passes": _number_passes(answers),
        "sequences_a_pass": answers[0].passes[0].sequences,
        "verifier": [q[state] for state in states],
        "outcome": None if outcome_q is None else [outcome_q[state] for state in states],
        "seconds": round(result.spent.seconds, 5),
        "verifier_seconds": round(seconds / len(distinct), 6),
    }


def _number_passes(answers: Sequence[Candidate]) -> list[list[int]]:
    """The passes of each answer; equal ones have the same number."""
    numbers: dict[int, int] = {}
    return [
        [numbers.setdefault(one.key, len(numbers)) for one in answer.passes] for answer in answers
    ]


def _timed_q(
    model: ValueModel, states: Sequence[PartialAnswer]
) -> tuple[dict[PartialAnswer, float], float]:
    """Q^pi of states, rounded, and the seconds it took."""
    began = time.perf_counter()
    values = model.q(states).tolist()
    seconds = time.perf_counter() - began
    return {state: round(value, 6) for state, value in zip(states, values)}, seconds
