"""Continues partial answers by a step or to the end, many at once through one engine.

    sampler = Sampler(lm, generation)
    requests = [RolloutRequest(state, ".", seed=1, steps=1), RolloutRequest(state, ".", seed=2)]
    for index, rollout in sampler.draw(requests):        # in the order in which they finish
        ...

A rollout does not depend on what else is sampled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

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
    """Continue `state` by `steps` steps (None: to the end), drawn with `seed`."""

    state: PartialAnswer
    delimiter: Delimiter
    seed: int
    steps: int | None = None


@dataclass(frozen=True)
class Cost:
    """Passes of requests (NFE), the sequences these ran, positions computed, tokens kept."""

    passes: int = 0
    sequences: int = 0
    positions: int = 0
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return Cost(*(a + b for a, b in pairs))


class Pass(NamedTuple):
    """A pass of the policy over one request.

    Passes with the same `key` show the network the same. `sequences` and `positions` are what the
    pass computes.
    """

    key: int
    sequences: int
    positions: int


@dataclass(frozen=True)
class Rollout:
    """The state that a request reached, its cost, and its decoding trace.

    `logprob` is the sum of the model's log-probabilities [nats] of the new tokens, each at the pass
    that wrote it.
    """

    state: PartialAnswer
    cost: Cost
    logprob: float
    trace: Trace
    passes: tuple[Pass, ...] = ()


class Sampler:
    """Draws continuations of partial answers, with a temperature above 0 to make them differ.

    `memory` [GiB] limits what the requests take together; by default most of what is free. With
    `share`, passes that several requests have in common are computed once: the rollouts stay the
    same, but the cost of one then depends on what else is sampled.
    """

    def __init__(
        self,
        lm: LM,
        generation: GenerationConfig,
        batch_size: int | None = None,
        memory: float | None = None,
        share: bool = False,
    ) -> None:
        self.lm = lm
        self.generation = generation
        self.share = share
        rule, rule_block_length = load(generation.decoder)
        self._config = dataclasses.replace(
            generation, decoder=rule, block_length=generation.block_length or rule_block_length
        )
        self.batch_size = batch_size or lm.batch_size
        self._running: dict[int, _RunningRollout] = {}
        engine = EngineConfig(
            batch_size=self.batch_size,
            max_num_batched_tokens=lm.max_positions,
            prefix_cache=0.0,  # the cost of a rollout must not depend on the others
        )
        serve = ServeConfig(max_waiting=self.batch_size, memory=memory)
        self._engine = Engine(lm.model, lm.vocab, lm.device, engine, serve, dedup=share)

    def request(self, rollout: RolloutRequest) -> Request:
        """The engine's request for a rollout.

        Raises `OptionError` if it does not fit or the answer is already complete.
        """
        if rollout.state.done:
            raise OptionError(
                "a complete answer cannot be continued",
                given=rollout.state.reason,
                hint="Continue answers that are not done.",
            )
        config = dataclasses.replace(self._config, seed=rollout.seed)
        return self.lm.new_request(rollout.state.prompt, config, begun=rollout.state.written)

    def text(self, state: PartialAnswer) -> str:
        """The text of an answer, cut before the first stop string."""
        return self.lm.text(state.written, self.generation)

    def capacity(self, rollout: RolloutRequest) -> int | None:
        """How many rollouts like this one fit into memory at a time; None if no limit is known."""
        return self._engine.max_concurrent(self.request(rollout))

    @property
    def free_slots(self) -> int:
        """How many more rollouts can run now."""
        return self.batch_size - len(self._running)

    def submit(self, rollout: RolloutRequest) -> int:
        """Start a rollout and return its number. Raises `OptionError` as `request` does."""
        request = self.request(rollout)
        number = self._engine.submit(request)
        salt = None if self.share else number
        self._running[number] = _RunningRollout(rollout, self.lm, request, salt)
        return number

    def step(self) -> list[tuple[int, Rollout]]:
        """Run one pass; the numbers and rollouts that finished. Raises `ModelError` if it fails."""
        finished: list[tuple[int, Rollout]] = []
        for event in self._engine.step():
            running = self._running.get(event.row)
            rollout = running.add(event) if running is not None else None
            if rollout is not None:
                self.abort(event.row)
                finished.append((event.row, rollout))
        return finished

    def abort(self, number: int) -> None:
        """Drop a rollout."""
        self._running.pop(number, None)
        self._engine.abort(number)

    def draw(self, requests: Iterable[RolloutRequest]) -> Iterator[tuple[int, Rollout]]:
        """Yield (index of the request, rollout) as rollouts finish.

        Raises `ModelError` if a pass fails.
        """
        waiting = enumerate(requests)
        index_of: dict[int, int] = {}
        try:
            while True:
                while self.free_slots and (entry := next(waiting, None)) is not None:
                    index, request = entry
                    index_of[self.submit(request)] = index
                if not index_of:
                    return
                for number, rollout in self.step():
                    yield index_of.pop(number), rollout
        finally:
            for number in index_of:
                self.abort(number)


class _RunningRollout:
    """A rollout in the engine. Rollouts with the same `salt` share passes while they agree."""

    def __init__(self, rollout: RolloutRequest, lm: LM, request: Request, salt: int | None) -> None:
        self.rollout = rollout
        self.decode = lm.vocab.decode
        self.text = IncrementalDetokenizer(request, lm.vocab)
        self.trace = lm.new_trace(request)
        self.config = request.config
        self.salt = salt
        self.depth = None if rollout.steps is None else rollout.state.depth + rollout.steps

    def add(self, event: StepEvent | FinishEvent | FailEvent) -> Rollout | None:
        """Take an event; the rollout, if it has finished."""
        if isinstance(event, FailEvent):
            raise ModelError(
                f"a pass failed while an answer was drawn ({event.error})",
                hint="Check the model and the free memory.",
            )
        self.trace.add(event)
        state, delimiter = self.rollout.state, self.rollout.delimiter
        if isinstance(event, FinishEvent):
            whole = complete(state, event.tokens, event.reason, delimiter, self.decode)
            return self._result(whole if self.depth is None else whole.prefix(self.depth))
        if self.depth is None:
            return None
        before = len(self.text.ids)
        self.text.add(event)
        if len(self.text.ids) == before:
            return None
        state = extend(state, self.text.ids, delimiter, self.decode, self.rollout.steps)
        return self._result(state) if state.depth == self.depth else None

    def _result(self, state: PartialAnswer) -> Rollout:
        """The rollout that ends in `state`; tokens after the state are dropped."""
        if not state.done and len(state.written) >= self.config.gen_length:
            state = dataclasses.replace(state, done=True, reason="length")
        new_positions = range(self.rollout.state.length, state.length)
        logprobs: dict[int, float] = {}
        for step in self.trace.steps:
            columns = zip(step.positions, step.logprobs or (), step.committed)
            logprobs.update((position, logp) for position, logp, kept in columns if kept)
        cost = Cost(
            passes=self.trace.nfe,
            sequences=self.trace.sequence_forwards,
            positions=sum(step.computed * step.sequences for step in self.trace.steps),
            tokens=len(new_positions),
        )
        logprob = math.fsum(logprobs[position] for position in new_positions)
        return Rollout(state, cost, logprob, self.trace, tuple(self._passes()))

    def _passes(self) -> Iterator[Pass]:
        sequences = 2 if self.config.cfg_scale > 0 else 1
        key = hash((self.salt, self.rollout.state.prompt, self.rollout.state.written))
        for step in self.trace.steps:
            yield Pass(key, sequences, step.computed * sequences)
            key = hash((key, *step.commits().items(), *step.revoked))
