"""Continues states of answers by a step or to the end, many at once through one engine, and counts
what that costs.

    sampler = Sampler(lm, generation)
    for index, drawn in sampler.draw([Ask(state, ".", seed=1, steps=1), Ask(state, ".", seed=2)]):
        ...                                      # in the order in which they end

What it gives for an ask does not depend on what else is asked.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from creditdecoding.config import EngineConfig, GenerationConfig, ServeConfig
from creditdecoding.decoders import load
from creditdecoding.decoding.engine import Engine
from creditdecoding.decoding.request import Request
from creditdecoding.decoding.streaming import IncrementalDetokenizer
from creditdecoding.errors import ModelError, OptionError
from creditdecoding.lm import LM
from creditdecoding.pav.steps import Delimiter, PartialAnswer, complete, extend
from creditdecoding.trace import FailEvent, FinishEvent, StepEvent, Trace


@dataclass(frozen=True)
class RolloutRequest:
    """Continue `state` by `steps` steps (None: to the end), each ended by `delimiter`, drawn with
    `seed`.
    """

    state: PartialAnswer
    delimiter: Delimiter
    seed: int
    steps: int | None = None


@dataclass(frozen=True)
class Cost:
    """What was computed: passes of requests (NFE), sequences these ran, positions through the
    network, tokens kept in the end.
    """

    passes: int = 0
    sequences: int = 0
    positions: int = 0
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))


@dataclass(frozen=True)
class Rollout:
    """What an ask became: the state it reached, its cost, and the trace.

    `logprob` is the sum of the model's own log-probabilities of the new tokens, each at the pass
    that wrote it, in nats.
    """

    state: PartialAnswer
    cost: Cost
    logprob: float
    trace: Trace


class Sampler:
    """Draws continuations of states. `generation` says how tokens are drawn: with a temperature
    above 0, or all draws are alike.

    `memory` [GiB] is what rows may take together, by default most of what is free. With `share`
    what several asks have in common is computed
    once, for one of them (sharing.py): the same is drawn for less, but what an ask costs then
    depends on what else is asked.
    """

    def __init__(
        self,
        lm: LM,
        generation: GenerationConfig,
        batch_size: int | None = None,
        memory: float | None = None,
        share: bool = False,
    ) -> None:
        self.lm, self.generation, self.share = lm, generation, share
        rule, own = load(generation.decoder)
        self._config = dataclasses.replace(
            generation, decoder=rule, block_length=generation.block_length or own
        )
        self.batch_size = batch_size or lm.batch_size
        self._under_way: dict[int, _Draw] = {}
        config, serve = (
            EngineConfig(batch_size=self.batch_size),
            ServeConfig(max_waiting=self.batch_size, memory=memory),
        )
        self._engine = Engine(lm.model, lm.vocab, lm.device, config, serve, dedup=share)

    def request(self, ask: RolloutRequest) -> Request:
        """The row that continues an ask's state. Raises `OptionError` if it does not fit or the
        state is complete.
        """
        if ask.state.done:
            raise OptionError(
                "a complete answer cannot be continued",
                given=ask.state.reason,
                hint="Ask for states whose answer is not done.",
            )
        config = dataclasses.replace(self._config, seed=ask.seed)
        return self.lm.new_request(ask.state.prompt, config, begun=ask.state.written)

    def text(self, state: PartialAnswer) -> str:
        """What a state's answer says, cut before the first stop string."""
        return self.lm.text(state.written, self.generation)

    def capacity(self, ask: RolloutRequest) -> int | None:
        """How many asks like this one memory holds at the same time; None: no limit is known."""
        return self._engine.max_concurrent(self.request(ask))

    @property
    def free_slots(self) -> int:
        """How many more asks can be under way at once."""
        return self.batch_size - len(self._under_way)

    def submit(self, ask: RolloutRequest) -> int:
        """Begin an ask; the number that `step` will call it by. Raises `OptionError` as `row` does."""
        row = self.request(ask)
        number = self._engine.submit(row)
        self._under_way[number] = _Draw(ask, self.lm, row)
        return number

    def step(self) -> list[tuple[int, Rollout]]:
        """One pass: the numbers of the asks that ended with it, and what became of them. Raises
        `ModelError` where a pass fails.
        """
        ended: list[tuple[int, Rollout]] = []
        for event in self._engine.step():
            draw = self._under_way.get(event.row)
            drawn = None if draw is None else draw.add(event)
            if drawn is not None:
                self.abort(event.row)
                ended.append((event.row, drawn))
        return ended

    def abort(self, number: int) -> None:
        """End an ask without a result."""
        self._under_way.pop(number, None)
        self._engine.abort(number)

    def draw(self, asks: Iterable[RolloutRequest]) -> Iterator[tuple[int, Rollout]]:
        """The asks' places and what became of them, in the order in which they end. Raises
        `ModelError` where a pass fails.
        """
        waiting = iter(enumerate(asks))
        places: dict[int, int] = {}
        try:
            while True:
                while self.free_slots and (one := next(waiting, None)) is not None:
                    places[self.submit(one[1])] = one[0]
                if not places:
                    return
                for number, drawn in self.step():
                    yield places.pop(number), drawn
        finally:
            for number in places:
                self.abort(number)


class _Draw:
    """An ask under way."""

    def __init__(self, ask: RolloutRequest, lm: LM, row: Request) -> None:
        self.ask, self.decode = ask, lm.vocab.decode
        self.reading, self.trace = IncrementalDetokenizer(row, lm.vocab), lm.new_trace(row)

    def add(self, event: StepEvent | FinishEvent | FailEvent) -> Rollout | None:
        """Take an event up; what the ask became, if it has ended."""
        if isinstance(event, FailEvent):
            raise ModelError(
                f"a pass failed while an answer was drawn ({event.error})",
                hint="Check the model and the free memory.",
            )
        self.trace.add(event)
        if isinstance(event, FinishEvent):
            whole = complete(
                self.ask.state, event.tokens, event.reason, self.ask.delimiter, self.decode
            )
            return self._drawn(
                whole
                if self.ask.steps is None
                else whole.prefix(self.ask.state.depth + self.ask.steps)
            )
        if self.ask.steps is None:
            return None  # what can be read on the way is of no use
        before = len(self.reading.ids)
        self.reading.add(event)
        if len(self.reading.ids) == before:
            return None
        found = extend(
            self.ask.state, self.reading.ids, self.ask.delimiter, self.decode, self.ask.steps
        )
        return self._drawn(found) if found.depth == self.ask.state.depth + self.ask.steps else None

    def _drawn(self, state: PartialAnswer) -> Rollout:
        """The result; of what was written behind the state nothing is kept. A state without a mask
        behind it is complete.
        """
        if not state.done and len(state.written) >= self.reading.row.config.gen_length:
            state = dataclasses.replace(state, done=True, reason="length")
        start = len(state.prompt)
        fresh = range(start + len(self.ask.state.written), start + len(state.written))
        found = {
            p: x
            for step in self.trace.steps
            for p, x, done in zip(step.positions, step.logprobs or (), step.committed)
            if done
        }
        cost = Cost(
            passes=self.trace.nfe,
            sequences=self.trace.sequence_forwards,
            positions=sum(step.computed * step.sequences for step in self.trace.steps),
            tokens=len(fresh),
        )
        return Rollout(state, cost, math.fsum(found[p] for p in fresh), self.trace)
