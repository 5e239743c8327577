"""Runs searches over problems at many budgets, every one a line of a run's folder, so that a run
that was killed goes on where it stopped.

Methods that choose among whole answers share one pool of answers a problem, drawn and rated once;
what they choose at every budget is read
from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from creditdecoding import run_dir as journal
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.fingerprint import checkpoint_digest, model_identity
from creditdecoding.lm import LM
from creditdecoding.options import parse_values, split_spec
from creditdecoding.pav.sampler import Sampler
from creditdecoding.pav.search.best_of_n import PICKS, answer_extractor
from creditdecoding.pav.search.driver import Found, Problem, ValueModel, rated
from creditdecoding.pav.search.methods import check, search
from creditdecoding.pav.search.options import KNOBS, SearchConfig
from creditdecoding.pav.steps import task_delimiter
from creditdecoding.pav.verifier.model import verifier_folder
from creditdecoding.tasks.base import Item, Split, Task, distinct_items

KEY = ("method", "n", "seed", "family", "item")
"""The fields of a line that tell it from all others of a run."""
POOL = "samples"
"""The method of the lines that hold whole answers to choose from."""
Place = tuple[str, int]


@dataclass(frozen=True)
class SearchPlan:
    """All that decides the lines of a run; `methods` and `sizes` are specs and budgets, `verifier`
    and `outcome` folders.

    `step_sizes` are the budgets of methods that go step by step; by default those of all.
    """

    families: tuple[Task, ...]
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
        for family in self.families:
            task_delimiter(family)
        for spec in self.methods:
            configured(spec, max(self.sizes))

    @property
    def steps(self) -> tuple[int, ...]:
        """The budgets of methods that go step by step."""
        return self.step_sizes or self.sizes

    @property
    def searches(self) -> list[str]:
        """The methods that go step by step."""
        return [spec for spec in self.methods if configured(spec).method not in PICKS]

    @property
    def picks(self) -> list[str]:
        """The methods that choose among whole answers."""
        return [spec for spec in self.methods if configured(spec).method in PICKS]

    @property
    def cells(self) -> list[tuple[str, int, int]]:
        """What is drawn for every problem: method or pool, budget, seed."""
        pools = [(POOL, max(self.sizes))] if self.picks else []
        drawn = [*pools, *((spec, n) for n in self.steps for spec in self.searches)]
        return [(spec, n, seed) for spec, n in drawn for seed in range(self.seeds)]

    @cached_property
    def items(self) -> Mapping[Place, Item]:
        """The problems by family and number. Raises `OptionError` where a family has too few."""
        return chosen(self.families, self.split, self.limit)

    @property
    def order(self) -> list[journal.Key]:
        """Every line of the finished file."""
        return [(*cell, *place) for cell in self.cells for place in self.items]


def chosen(families: Sequence[Task], split: Split, limit: int) -> dict[Place, Item]:
    """Problems by family and number. Raises `OptionError` where a family has too few for an
    interval.
    """
    found: dict[Place, Item] = {}
    for family in families:
        items = distinct_items(family, split, 0, limit)
        if len(items) < 2:
            raise OptionError(
                f"{family.name} has too few {split} items for an interval",
                given=len(items),
                hint="Ask for more, or leave it out.",
            )
        found |= {(family.name, i): item for i, item in enumerate(items)}
    return found


def posed(
    families: Sequence[Task],
    items: Mapping[Place, Item],
    lm: LM,
    generation: GenerationConfig,
    seed: int,
) -> dict[Place, Problem]:
    """Items as problems, those of like length one after the other. Raises `OptionError` where a
    family does not say what ends a step.
    """
    known = {
        family.name: (task_delimiter(family), answer_extractor(family, lm, generation))
        for family in families
    }
    found = {
        place: Problem(tuple(lm.encode(item.prompt)), known[place[0]][0], seed, known[place[0]][1])
        for place, item in items.items()
    }
    return dict(sorted(found.items(), key=lambda one: len(one[1].prompt)))


def configured(spec: str, n: int = 1) -> SearchConfig:
    """`NAME:knob=value,...` at a budget; `single` has none. Raises `OptionError`."""
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
    """What a folder's lines depend on."""
    engine = {
        f.name: getattr(plan.engine, f.name)
        for f in dataclasses.fields(plan.engine)
        if f.name not in ("offline", "cache_dir", "batch_size")
    }
    texts = json.dumps(
        [[*place, item.prompt, repr(item.gold)] for place, item in plan.items.items()]
    )
    own = model_identity(lm)
    return {
        "kind": "search",
        "model": {"model": own.model, "tokenizer": own.tokenizer},
        "behaviour": own.behaviour,
        **{
            name: folder and checkpoint_digest(verifier_folder(folder))
            for name, folder in (("verifier", plan.verifier), ("outcome", plan.outcome))
        },
        "tasks": {family.name: dict(family.metadata) for family in plan.families},
        "items": {
            "split": plan.split,
            "limit": plan.limit,
            "texts": hashlib.blake2b(texts.encode(), digest_size=8).hexdigest(),
        },
        "generation": dataclasses.asdict(plan.generation),
        "engine": engine,
        "cells": plan.cells,
    }


def run(
    plan: SearchPlan,
    folder: Path,
    lm: LM,
    judge: ValueModel,
    outcome: ValueModel | None = None,
    on_start: Callable[[int, int], Callable[[], None]] | None = None,
) -> list[dict[str, Any]]:
    """Do what is left of a plan in its folder; all its lines, in order. Raises `OptionError`s.

    `on_start` is told how many lines there are already and in all, and gives a function to call at
    each further one.
    """
    sampler = Sampler(lm, plan.generation, share=True)
    problems = {
        seed: posed(plan.families, plan.items, lm, plan.generation, plan.generation.seed + seed)
        for seed in range(plan.seeds)
    }
    for spec, n, seed in plan.cells:
        check(_config(spec, n), [*problems[seed].values()], sampler)
    with journal.open_run(folder, manifest(plan, lm), "cells"):
        found = journal.read_records(folder, KEY)
        tick = (
            on_start(sum(key in found for key in plan.order), len(plan.order))
            if on_start
            else lambda: None
        )
        with journal.record_writer(folder, 0) as append:
            for spec, n, seed in plan.cells:
                todo = {
                    place: problem
                    for place, problem in problems[seed].items()
                    if (spec, n, seed, *place) not in found
                }
                for line in _lines(plan, spec, n, todo, sampler, judge, outcome):
                    append({**dict(zip(KEY, (spec, n, seed))), **line})
                    tick()
        found = journal.read_records(folder, KEY)
        journal.finalize(folder, found, plan.order)
        return [found[key] for key in plan.order]


def _config(spec: str, n: int) -> SearchConfig:
    return SearchConfig("certainty", n) if spec == POOL else configured(spec, n)


def _lines(
    plan: SearchPlan,
    spec: str,
    n: int,
    todo: Mapping[Place, Problem],
    sampler: Sampler,
    judge: ValueModel,
    outcome: ValueModel | None,
) -> Iterator[dict[str, Any]]:
    """The lines of a cell as its problems end."""
    places, families = [*todo], {family.name: family for family in plan.families}
    for at, found in search(_config(spec, n), [*todo.values()], sampler, judge):
        place = places[at]
        verdict = judged(families[place[0]], plan.items[place])
        made = (
            _pool(found, todo[place], verdict, sampler, judge, outcome)
            if spec == POOL
            else line_of(found, verdict, sampler)
        )
        yield {"family": place[0], "item": place[1], **made}


def judged(family: Task, item: Item) -> Callable[[str], bool]:
    """Whether a text is right."""
    return lambda text: family.score(text, item)


def line_of(found: Found, right: Callable[[str], bool], sampler: Sampler) -> dict[str, Any]:
    """A search's answer, whether it is right, and what it cost."""
    text = sampler.text(found.choice.answer.state)
    return {"text": text, "right": right(text), "q": found.choice.answer.q, **_spent(found)}


def _spent(found: Found) -> dict[str, Any]:
    spent = found.spent
    return {
        "sequences": spent.policy.sequences,
        "verifier_sequences": spent.verifier.sequences,
        "tokens": spent.policy.tokens,
        "positions": spent.policy.positions + spent.verifier.positions,
        "seconds": round(spent.seconds + spent.verifier_seconds, 5),
    }


def _pool(
    found: Found,
    problem: Problem,
    right: Callable[[str], bool],
    sampler: Sampler,
    judge: ValueModel,
    outcome: ValueModel | None,
) -> dict[str, Any]:
    """A pool as columns: of equal `passes` one is run, of answers that are the `same` (the place of
    the first one) a verifier reads one.
    """
    assert problem.vote is not None
    drawn = found.choice.finished
    ids = [one.state for one in drawn]
    first = {state: place for place, state in reversed([*enumerate(ids)])}
    once = [*dict.fromkeys(ids)]
    texts = {state: sampler.text(state) for state in once}
    verdicts, votes = (
        {state: right(texts[state]) for state in once},
        {state: problem.vote(state.written) for state in once},
    )
    qs: dict[str, list[float] | None] = {"verifier": None, "outcome": None}
    passes: dict[int, int] = {}
    seconds = 0.0
    for name, who in (("verifier", judge), ("outcome", outcome)):
        if who is not None:
            values, seconds = rated(who, once)
            each = dict(zip(once, values))
            qs[name] = [round(each[state], 6) for state in ids]
    return {
        "vote": [votes[state] for state in ids],
        "right": [verdicts[state] for state in ids],
        "same": [first[state] for state in ids],
        "logprob": [round(one.logprob, 4) for one in drawn],
        "tokens": [one.tokens for one in drawn],
        "passes": [
            [passes.setdefault(each.key, len(passes)) for each in one.passes] for one in drawn
        ],
        "sequences_a_pass": drawn[0].passes[0].sequences,
        **qs,
        "seconds": round(found.spent.seconds, 5),
        "verifier_seconds": round(seconds / len(once), 6),
    }
