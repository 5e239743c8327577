"""Labels for states of answers: problems under way together, so that every pass is full; what is
finished goes into a store.

    problems = problems_of(lm, families("arithmetic"), config)
    with opened(path, header(lm, problems, ...)) as store:
        fill(store, lm, problems, config, generation)
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
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
from creditdecoding.pav.data.label_store import (
    Label,
    LabelCost,
    LabelStore,
    ProblemKey,
    StoreHeader,
)
from creditdecoding.pav.data.options import CollectConfig
from creditdecoding.pav.data.strategies import Plan, Problem, plan
from creditdecoding.pav.sampler import Cost, Rollout, RolloutRequest, Sampler
from creditdecoding.pav.steps import PartialAnswer, task_delimiter
from creditdecoding.tasks.base import Item, Split, Task, distinct_items

SETTLED = ("dtype", "quantize", "causal_block")
"""Engine options that answers depend on."""


def problems_of(
    lm: LM, families: Sequence[Task], config: CollectConfig, generation: GenerationConfig
) -> list[Problem]:
    """The problems to label, family by family. Raises `OptionError` where one has no delimiter or
    no room, or all draws would be alike.
    """
    if generation.temperature == 0 or generation.top_k == 1:
        hint = "Give a temperature above 0, such as --temperature 1, and no --top-k 1."
        raise OptionError(
            "without noise all completions of a state are alike",
            given=f"temperature {generation.temperature}, top_k {generation.top_k}",
            hint=hint,
        )
    marks = [task_delimiter(family, config.delimiter) for family in families]
    split = cast(Split, config.split)
    found = []
    for family, mark in zip(families, marks):
        for number, item in enumerate(
            distinct_items(family, split, config.item_seed, config.limit)
        ):
            with prefix_errors(f"item {number + 1} of {family.name}"):
                root = PartialAnswer(tuple(lm.encode(item.prompt, config.raw)))
                lm.new_request(root.prompt, generation)
            found.append(
                Problem((family.name, number), root, mark, _judge(lm, family, item, generation))
            )
    if not found:
        raise OptionError(
            "there are no problems", given=config.split, hint="Choose another split or other tasks."
        )
    return found


def _judge(
    lm: LM, family: Task, item: Item, generation: GenerationConfig
) -> Callable[[tuple[int, ...]], bool]:
    known: dict[tuple[int, ...], bool] = {}

    def right(written: tuple[int, ...]) -> bool:
        if written not in known:
            known[written] = family.score(lm.text(written, generation), item)
        return known[written]

    return right


def header(
    lm: LM,
    model: str,
    families: Sequence[Task],
    problems: Sequence[Problem],
    config: CollectConfig,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> StoreHeader:
    """What a store of these labels begins with."""
    asked = hashlib.blake2b(
        repr([(problem.key, problem.root, problem.delimiter) for problem in problems]).encode(),
        digest_size=8,
    )
    given = {
        **dataclasses.asdict(generation),
        "decoder": settings(check_supported(generation.decoder, lm.geometry)),
    }
    about = {
        "model": model,
        "tasks": [family.name for family in families],
        "questions": asked.hexdigest(),
        **dataclasses.asdict(config),
        **given,
    }
    return StoreHeader(
        model_identity(lm),
        {**about, **{name: getattr(engine, name) for name in SETTLED}},
        len(problems),
    )


@dataclass(frozen=True)
class Collected:
    """A problem's labels, all answers drawn for them, and what they cost.

    Seconds are those since the last problem was finished.
    """

    key: ProblemKey
    labels: tuple[Label, ...]
    bill: LabelCost
    answers: tuple[Label, ...] = ()


def run(
    lm: LM,
    plans: Iterable[tuple[Problem, Plan]],
    generation: GenerationConfig,
    batch_size: int | None = None,
) -> Iterator[Collected]:
    """Carry out plans, in the order in which they are finished; as many are under way as fill the
    passes. Labels do not depend on that.
    """
    since = time.perf_counter()
    for each in _Desk(Sampler(lm, generation, batch_size, share=True), iter(plans)).ended():
        now = time.perf_counter()
        bill = LabelCost(each.rollouts, each.cost, now - since)
        answers = tuple(each.problem.outcomes(each.answers))
        yield Collected(each.problem.key, tuple(each.labels), bill, answers)
        since = now


def collect(
    lm: LM,
    problems: Iterable[Problem],
    config: CollectConfig,
    generation: GenerationConfig,
    batch_size: int | None = None,
) -> Iterator[Collected]:
    """Label problems by the strategy that `config` names."""
    return run(
        lm,
        ((problem, plan(problem, config, generation.seed)) for problem in problems),
        generation,
        batch_size,
    )


def fill(
    store: LabelStore,
    lm: LM,
    problems: Sequence[Problem],
    config: CollectConfig,
    generation: GenerationConfig,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Label the problems that a store does not have yet; `tick` is called for each."""
    left = [problem for problem in problems if problem.key not in store.found.labels]
    for found in collect(lm, left, config, generation):
        store.add(found.key, found.labels, found.bill, found.answers)
        tick()


class _Run:
    """A problem under way: what its strategy waits for, what was drawn for it, what it has cost."""

    def __init__(self, problem: Problem, strategy: Plan) -> None:
        self.problem, self.strategy = problem, strategy
        self.labels: list[Label] = []
        self.answers: list[PartialAnswer] = []
        self.rollouts, self.cost = 0, Cost()
        self.drawn: dict[int, Rollout] = {}
        self.asks = next(strategy)

    def take(self, place: int, drawn: Rollout) -> bool:
        """Take an answer up; whether the strategy has gone on."""
        self.drawn[place] = drawn
        self.rollouts, self.cost = self.rollouts + 1, self.cost + drawn.cost
        return len(self.drawn) == len(self.asks) and self.go_on()

    def go_on(self) -> bool:
        """Send the strategy what it asked for."""
        ready = [self.drawn[i] for i in range(len(self.asks))]
        self.drawn.clear()
        self.answers += [drawn.state for drawn in ready]
        try:
            self.asks = self.strategy.send(ready)
            while not self.asks:
                self.asks = self.strategy.send([])
        except StopIteration as end:
            self.asks, self.labels = [], end.value
        return True


class _Desk:
    """Problems under way, the earliest first, drawn by one sampler; draws from one state begin
    together, so that they share passes.
    """

    def __init__(self, sampler: Sampler, source: Iterator[tuple[Problem, Plan]]) -> None:
        self.sampler, self.source = sampler, source
        self.waiting: list[
            tuple[int, int, _Run, list[RolloutRequest]]
        ] = []  # problem, place of the first ask
        self.under_way: dict[int, tuple[int, int, _Run]] = {}
        self.begun = 0

    def ended(self) -> Iterator[_Run]:
        """Problems as they are finished."""
        while True:
            self._submit()
            if not self.under_way:
                return
            for number, drawn in self.sampler.step():
                order, place, run = self.under_way.pop(number)
                if run.take(place, drawn):
                    if not run.asks:
                        yield run
                    self._queue(order, run)

    def _submit(self) -> None:
        """Hand the sampler what it has room for."""
        while self.sampler.free_slots and (self.waiting or self._open()):
            order, place, run, group = self.waiting[0]
            if len(group) > self.sampler.free_slots and self.under_way:
                return
            heapq.heappop(self.waiting)
            now, later = group[: self.sampler.free_slots], group[self.sampler.free_slots :]
            if later:
                heapq.heappush(self.waiting, (order, place + len(now), run, later))
            for i, ask in enumerate(now):
                self.under_way[self.sampler.submit(ask)] = (order, place + i, run)

    def _open(self) -> bool:
        """Begin the next problem, if there is one."""
        one = next(self.source, None)
        if one is None:
            return False
        self._queue(self.begun, _Run(*one))
        self.begun += 1
        return True

    def _queue(self, order: int, run: _Run) -> None:
        """Put what a strategy asks for into the queue, draws from one state as one group."""
        start = 0
        for end in range(1, len(run.asks) + 1):
            if end == len(run.asks) or run.asks[end].state != run.asks[start].state:
                heapq.heappush(self.waiting, (order, start, run, run.asks[start:end]))
                start = end
