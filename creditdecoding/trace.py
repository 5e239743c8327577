"""What happened, step by step: the only place where forward passes, tokens and times are counted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from creditdecoding.errors import OptionError
from creditdecoding.trace_svg import html_card, pass_map


@dataclass(frozen=True)
class StepEvent:
    """One forward pass of one row. Events of rows that shared the pass carry the same `forward`.

    `positions` are the masked positions of the current block before the step, counted from the
    start of the row; `tokens`,
    `confidence`, `credit` (None for decoders without) and `committed` belong to them. `seconds`
    since the run began. `computed`
    positions of the row went through the network, the rest was kept from earlier passes; this
    `sequences` times, twice under guidance.
    `top` is the model's likeliest id at each position, before credit and noise, `logprobs` the
    natural logarithm of what the model's
    own distribution (guided where asked for; credit, temperature and noise left out) gives
    `tokens`; None in traces that do not say.
    `revoked` are positions whose token, written earlier, the step took back: masks again.
    """

    row: int
    forward: int
    block: int
    step: int
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    confidence: tuple[float, ...]
    credit: tuple[float, ...] | None
    committed: tuple[bool, ...]
    seconds: float
    computed: int = 0
    sequences: int = 1
    top: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    revoked: tuple[int, ...] = ()

    def commits(self) -> dict[int, int]:
        """Position -> token of what this step wrote."""
        return {p: t for p, t, done in zip(self.positions, self.tokens, self.committed) if done}

    def apply_to(self, written: Mapping[int, int]) -> dict[int, int]:
        """Position -> token of what stands after this step, if `written` stood before it."""
        found = {**written, **self.commits()}
        return {p: t for p, t in found.items() if p not in self.revoked} if self.revoked else found


@dataclass(frozen=True)
class FinishEvent:
    """A row ended. `reason`: "stop" (end token or stop string), "length" (canvas full). `tokens` is
    the answer, end token left out.

    The row took part from `began` to `seconds` of the run.
    """

    row: int
    reason: str
    tokens: tuple[int, ...]
    seconds: float
    began: float = 0.0


Event = StepEvent | FinishEvent


@dataclass(frozen=True)
class FailEvent:
    """A row ended without an answer. `reason`: "model" (its logits were no numbers), "memory" (no
    room for its pass) or "error"
    (something else was raised); `error` is one line for the caller. It took part from `began` to
    `seconds`. Only an engine makes these.
    """

    row: int
    error: str
    seconds: float
    began: float = 0.0
    reason: str = "error"


@dataclass(repr=False)
class Trace:
    """The events of one request, and every number derived from them."""

    prompt: tuple[int, ...]
    steps: list[StepEvent] = field(default_factory=list)
    finish: FinishEvent | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Append an event of this row."""
        if isinstance(event, StepEvent):
            self.steps.append(event)
        else:
            self.finish = event

    @property
    def nfe(self) -> int:
        """Forward passes this request took part in."""
        return len(self.steps)

    @property
    def sequence_forwards(self) -> int:
        """Sequences that the model ran for this request: one a pass, two under guidance."""
        return sum(step.sequences for step in self.steps)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The answer: prompt, end tokens and what lies behind them not counted."""
        return self.finish.tokens if self.finish else ()

    @property
    def token_count(self) -> int:
        """Answer tokens that were written; of a text with gaps, the gaps."""
        end = len(self.prompt) + len(self.tokens)
        return sum(position < end for position in self.written)

    @property
    def tpf(self) -> float:
        """Answer tokens per forward pass."""
        return self.token_count / self.nfe if self.nfe else 0.0

    @property
    def seconds(self) -> float:
        """Time from joining the batch to the end."""
        return self.finish.seconds - self.finish.began if self.finish else 0.0

    @property
    def written(self) -> dict[int, int]:
        """Position -> token of everything that stands in the end, end tokens included."""
        found: dict[int, int] = {}
        for step in self.steps:
            found = step.apply_to(found)
        return found

    @property
    def summary(self) -> str:
        """Its counts in a line."""
        reason = self.finish.reason if self.finish else "not finished"
        return f"{self.token_count} tokens in {self.nfe} forward passes ({self.tpf:.2f} a pass), {self.seconds:.2f} s, {reason}"

    def __repr__(self) -> str:
        return f"<Trace: {self.summary}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html_card(self.summary, self.svg())

    def svg(self) -> str:
        """Which pass wrote which position, as SVG."""
        end = len(self.prompt) + len(self.tokens)
        written: dict[int, tuple[int, float]] = {}
        for number, step in enumerate(self.steps):
            done = zip(step.positions, step.confidence, step.committed)
            written.update(
                {position: (number, confidence) for position, confidence, now in done if now}
            )
        return pass_map(
            {position: entry for position, entry in written.items() if position < end}, self.nfe
        )

    def dumps(self) -> str:
        """As JSONL: a header line, then an event a line."""
        head = {"kind": "trace", "prompt": self.prompt, "settings": self.settings}
        lines = [head, *({"kind": "step", **asdict(s)} for s in self.steps)]
        if self.finish:
            lines.append({"kind": "finish", **asdict(self.finish)})
        return "".join(json.dumps(line) + "\n" for line in lines)

    def save(self, path: str | Path) -> None:
        """Write `dumps` to a file. Raises `OptionError` where it cannot be written."""
        try:
            Path(path).write_text(self.dumps(), encoding="utf-8")
        except OSError as error:
            raise OptionError(
                f"cannot write ({error.strerror})", given=str(path), hint="Check the folder."
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read what `save` wrote. Raises `OptionError` if it is something else."""
        try:
            head, *rest = [
                json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()
            ]
            trace = cls(tuple(head["prompt"]), settings=head["settings"])
            for line in rest:
                kind = line.pop("kind")
                values: dict[str, Any] = {
                    name: tuple(v) if isinstance(v, list) else v for name, v in line.items()
                }
                trace.add(StepEvent(**values) if kind == "step" else FinishEvent(**values))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OptionError(
                f"not a trace file ({error})",
                given=str(path),
                hint="Make one with: credit trace PROMPT --save FILE.jsonl",
            ) from error
        return trace


@dataclass(frozen=True)
class Totals:
    """Sums over traces of one run: `forwards` of the batch, `passes` of all requests, the sequences
    these ran, answer tokens,
    seconds, and positions that went through the network."""

    requests: int
    forwards: int
    passes: int
    sequence_forwards: int
    tokens: int
    seconds: float
    computed: int = 0

    @property
    def nfe(self) -> float:
        """Mean forward passes a request."""
        return self.passes / self.requests if self.requests else 0.0

    @property
    def tpf(self) -> float:
        """Answer tokens per forward pass of a request."""
        return self.tokens / self.passes if self.passes else 0.0


def total(traces: Sequence[Trace]) -> Totals:
    """Add up the traces of one run."""
    passes: Iterable[int] = (step.forward for trace in traces for step in trace.steps)
    return Totals(
        requests=len(traces),
        forwards=len(set(passes)),
        passes=sum(trace.nfe for trace in traces),
        sequence_forwards=sum(trace.sequence_forwards for trace in traces),
        tokens=sum(trace.token_count for trace in traces),
        seconds=max((trace.finish.seconds for trace in traces if trace.finish), default=0.0),
        computed=sum(step.computed * step.sequences for trace in traces for step in trace.steps),
    )
