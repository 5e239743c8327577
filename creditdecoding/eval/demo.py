"""The questions of `credit demo`, answered by several decoders in turn and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from creditdecoding.decoders import resolve, settings
from creditdecoding.decoders.base import Decoder
from creditdecoding.lm import LM, Completion
from creditdecoding.tasks.base import Item, Task, distinct_items
from creditdecoding.viewer.labels import settings_label

SAFE_SETTINGS = (
    "threshold:threshold=0.999",
    "credit:threshold=0.999",
    "thrift:threshold=0.999",
)
"""Of each rule the sweep's setting that loses least on the dev split (docs/research/results.md)."""

RACERS = (0, 2)
"""The contestants of the race: standard and credit."""
OPEN_MODEL = "smol"
OPEN_QUESTION = "What is the capital of Belgium?"
OPEN_RACERS = {
    "standard": "fixed",
    "threshold 0.9": "threshold:threshold=0.9",
    "credit 0.9": "credit:threshold=0.9",
}
OPEN_OPTIONS: dict[str, Any] = {"gen_length": 64, "cache": "block"}
"""A race on an open question: the model, a question whose answer it knows, the racers by name, and
their options.
"""


@dataclass(frozen=True)
class DemoAnswer:
    """What one decoder answered to one question."""

    completion: Completion
    is_right: bool


@dataclass
class Contestant:
    """A decoder of the demo under its `name` in words, and its answers by question."""

    name: str
    decoder: Decoder
    answers: list[DemoAnswer] = field(default_factory=list)

    @property
    def right(self) -> int:
        """Questions answered right."""
        return sum(answer.is_right for answer in self.answers)

    @property
    def passes(self) -> int:
        """Forward passes of all answers."""
        return sum(answer.completion.nfe for answer in self.answers)

    @property
    def seconds(self) -> float:
        """Time of all answers, one after the other."""
        return sum(answer.completion.trace.seconds for answer in self.answers)

    def lost_to(self, other: Contestant) -> int:
        """Questions that `other` answered right and this decoder did not."""
        pairs = zip(self.answers, other.answers)
        return sum(other.is_right and not ours.is_right for ours, other in pairs)


@dataclass(frozen=True)
class Race:
    """A question, and the answers of two decoders to it by name."""

    question: str
    answers: dict[str, Completion]


def last_race(questions: Sequence[tuple[Task, Item]], contestants: Sequence[Contestant]) -> Race:
    """The race on the last question of the demo."""
    racers = [contestants[number] for number in RACERS]
    answers = {racer.name: racer.answers[-1].completion for racer in racers}
    return Race(questions[-1][1].prompt, answers)


def open_race(lm: LM, on_answer: Callable[[], None]) -> Race:
    """A race on an open question, answered in sentences."""
    answers = {}
    for name, decoder in OPEN_RACERS.items():
        answers[name] = lm.generate(OPEN_QUESTION, decoder=decoder, **OPEN_OPTIONS)
        on_answer()
    return Race(OPEN_QUESTION, answers)


def make_contestants(preferred: Decoder | None) -> list[Contestant]:
    """Standard decoding, and each fast rule at a safe setting.

    `preferred`, the decoder that a checkpoint names for itself, replaces ours of the same rule.
    """
    contestants = [Contestant("standard", resolve("fixed"))]
    for spec in SAFE_SETTINGS:
        decoder = resolve(spec)
        if type(decoder) is type(preferred):
            decoder = preferred
        contestants.append(Contestant(_label(decoder), decoder))
    return contestants


def _label(decoder: Decoder) -> str:
    """The decoder's name and threshold, and the knobs that are not at their defaults."""
    knobs = settings(decoder)
    defaults = settings(resolve(knobs["name"]))
    changed = {knob: value for knob, value in knobs.items() if value != defaults[knob]}
    shown = {"name": knobs["name"], "threshold": knobs.get("threshold"), **changed}
    return settings_label(shown)


def draw_questions(tasks: Iterable[Task], per_task: int, seed: int) -> list[tuple[Task, Item]]:
    """Items of the test split that the seed draws, `per_task` of each task."""
    questions = []
    for task in tasks:
        questions += [(task, item) for item in distinct_items(task, "test", seed, per_task)]
    return questions


def answer_questions(
    lm: LM,
    questions: Sequence[tuple[Task, Item]],
    contestants: Sequence[Contestant],
    on_answer: Callable[[], None],
) -> None:
    """Let every contestant answer every question, one at a time and in turn.

    All of them meet the same load of the machine that way, so their seconds can be compared.
    """
    for task, item in questions:
        for contestant in contestants:
            completion = lm.generate(item.prompt, decoder=contestant.decoder)
            is_right = task.score(completion.text, item)
            contestant.answers.append(DemoAnswer(completion, is_right))
            on_answer()
