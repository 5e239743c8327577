"""What happened, step by step. Only here are forward passes, tokens and times counted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from creditdecoding.errors import OptionError, os_errors
from creditdecoding.trace_svg import html_card, pass_map
from creditdecoding.wording import count

Alternatives = tuple[tuple[tuple[int, float], ...], ...]
"""For each written token: ids and their log-probabilities in nats."""


@dataclass(frozen=True)
class StepEvent:
    """One forward pass of one request, number `row`.

    - `forward`: number of the pass, the same for all requests that shared it; `block`, `step`:
      where the request was; `seconds` since the run began.
    - `positions`: where the decoder could write, counted from the start of the canvas; `tokens`,
      `confidence`, `credit` (None for decoders without) and `committed` belong to them.
    - `top`: the model's top-1 id at each position, before credit and noise. `logprobs`: natural
      logarithm of the model's own probability of `tokens`, guided if decoding was, without credit,
      temperature and noise. None in traces that do not have them.
    - `revoked`: positions with a token from an earlier step that are masks again.
    - `computed`: positions that went through the model, the rest was cached; `sequences`: how many
      times, twice with guidance.
    - `prefill`: passes before this one that only stored parts of a long prompt (their positions
      count in `computed`); `reused`: positions whose keys and values another request had stored.
    - `alternatives`: of the written tokens, if the request asks for them.
    - `ahead`: how many blocks after the current one each of `positions` is; None if the decoder
      could write in the current block alone.
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
    prefill: int = 0
    reused: int = 0
    alternatives: Alternatives | None = None
    ahead: tuple[int, ...] | None = None

    def commits(self) -> dict[int, int]:
        """Position -> token of what this step wrote."""
        return {p: t for p, t, done in zip(self.positions, self.tokens, self.committed) if done}

    def apply_to(self, written: Mapping[int, int]) -> dict[int, int]:
        """Position -> token of everything written after this step, given what was before it."""
        after = {**written, **self.commits()}
        for position in self.revoked:
            after.pop(position, None)
        return after


@dataclass(frozen=True)
class FinishEvent:
    """A request ended. `reason`: "stop" (end token or stop string) or "length" (no mask left).

    `tokens` is the answer without the end token. The request took part in the run from `began` to
    `seconds`.
    """

    row: int
    reason: str
    tokens: tuple[int, ...]
    seconds: float
    began: float = 0.0


Event = StepEvent | FinishEvent


@dataclass(frozen=True)
class FailEvent:
    """A request of an engine ended without an answer; `error` is one line for the caller.

    `reason`: "model" (its logits were not finite), "memory" (no room for its pass) or "error"
    (anything else). It took part in the run from `began` to `seconds`.
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
    tokenizer: Any = field(default=None, compare=False)
    """What turns its ids into text; None for one that was read from a file."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "tokenizer": None}

    def add(self, event: Event) -> None:
        """Append an event of this request."""
        if isinstance(event, StepEvent):
            self.steps.append(event)
        else:
            self.finish = event

    @property
    def nfe(self) -> int:
        """Steps of this request: forward passes it took part in, without `prefill_passes`."""
        return len(self.steps)

    @property
    def prefill_passes(self) -> int:
        """Passes that only stored a part of a long prompt, which depend on what else ran; 0 if the
        first step computed it.
        """
        return sum(step.prefill for step in self.steps)

    @property
    def sequence_forwards(self) -> int:
        """Sequences that the model ran for this request: one a pass, two with guidance."""
        return sum(step.sequences for step in self.steps)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The answer, without the prompt, end tokens and what follows them."""
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
        """Position -> token of everything written in the end, end tokens included."""
        written: dict[int, int] = {}
        for step in self.steps:
            written = step.apply_to(written)
        return written

    @property
    def summary(self) -> str:
        """The counts in a line."""
        reason = self.finish.reason if self.finish else "not finished"
        passes = f"{count(self.nfe, 'forward pass', 'forward passes')} ({self.tpf:.2f} a pass)"
        return f"{count(self.token_count, 'token')} in {passes}, {self.seconds:.2f} s, {reason}"

    def __repr__(self) -> str:
        return f"<Trace: {self.summary}>"

    def _repr_html_(self) -> str:
        return html_card(self.summary, self.svg())

    def show(self, tokenizer: Any = None) -> None:
        """Show question, answer and what each pass wrote: a table in the terminal, a page with a
        slider in a notebook.

        A trace that was read from a file needs the model's tokenizer: `trace.show(lm.tokenizer)`.
        Raises `OptionError` without one.
        """
        tokenizer = tokenizer or self.tokenizer
        if tokenizer is None:
            raise OptionError(
                "the trace does not know its tokenizer",
                hint="Give it: trace.show(lm.tokenizer), or load_tokenizer of creditdecoding.lm.",
            )
        # The viewer stands above traces, so it is imported when it is used.
        import_module("creditdecoding.viewer.show").show_trace(self, tokenizer)

    def svg(self) -> str:
        """A picture of which pass wrote which position."""
        end = len(self.prompt) + len(self.tokens)
        written: dict[int, tuple[int, float]] = {}
        for number, step in enumerate(self.steps):
            for position, confidence, done in zip(step.positions, step.confidence, step.committed):
                if done and position < end:
                    written[position] = (number, confidence)
        return pass_map(written, self.nfe)

    def dumps(self) -> str:
        """As JSONL: a header line, then a line for each event."""
        head = {"kind": "trace", "prompt": self.prompt, "settings": self.settings}
        lines = [head, *({"kind": "step", **asdict(step)} for step in self.steps)]
        if self.finish:
            lines.append({"kind": "finish", **asdict(self.finish)})
        return "".join(json.dumps(line) + "\n" for line in lines)

    def save(self, path: str | Path) -> None:
        """Write `dumps` to a file. Raises `OptionError` if it cannot be written."""
        with os_errors("cannot write", path, "Check the folder."):
            Path(path).write_text(self.dumps(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read what `save` wrote. Raises `OptionError` if it is something else."""
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
            head, *rest = [json.loads(line) for line in lines]
            trace = cls(tuple(head["prompt"]), settings=head["settings"])
            for line in rest:
                kind = line.pop("kind")
                values: dict[str, Any] = {
                    name: tuple(value) if isinstance(value, list) else value
                    for name, value in line.items()
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
    """Sums over the traces of one run.

    `forwards`: passes of the batch; `passes`: of all requests; `sequence_forwards`: the sequences
    these ran; `tokens`: answer tokens; `computed`: positions that went through the model;
    `prefill_passes`: passes that only stored a part of a prompt.
    """

    requests: int
    forwards: int
    passes: int
    sequence_forwards: int
    tokens: int
    seconds: float
    computed: int = 0
    prefill_passes: int = 0

    @property
    def nfe(self) -> float:
        """Mean forward passes of a request."""
        return self.passes / self.requests if self.requests else 0.0

    @property
    def tpf(self) -> float:
        """Answer tokens per forward pass of a request."""
        return self.tokens / self.passes if self.passes else 0.0


def total(traces: Sequence[Trace]) -> Totals:
    """Add up the traces of one run."""
    steps = [step for trace in traces for step in trace.steps]
    return Totals(
        requests=len(traces),
        forwards=len({step.forward for step in steps}),
        passes=len(steps),
        sequence_forwards=sum(step.sequences for step in steps),
        tokens=sum(trace.token_count for trace in traces),
        seconds=max((trace.finish.seconds for trace in traces if trace.finish), default=0.0),
        computed=sum(step.computed * step.sequences for step in steps),
        prefill_passes=sum(step.prefill for step in steps),
    )
