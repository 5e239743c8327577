"""The fastest setting of a decoder whose loss of score is below a bound, with a stated confidence.

Settings are tried from the safest to the fastest, each by a valid p-value at level 1 - confidence,
and the first failure ends the search. In an order that does not depend on answers no correction for
the number of settings is needed: with the stated confidence all certified ones keep the bound
(Angelopoulos et al., Learn then Test, arXiv 2110.01052: fixed sequence testing).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import names
from creditdecoding.decoding.request import check_supported
from creditdecoding.errors import OptionError
from creditdecoding.eval.evaluate import ScoredAnswer, answer_items
from creditdecoding.eval.paired_test import MOST_ITEMS, PairedCounts, items_needed, p_value
from creditdecoding.eval.saved_answers import SavedAnswers
from creditdecoding.eval.sweep import (
    REFERENCE,
    CurvePoint,
    DecoderCurve,
    parse_curves,
    sweep_of,
)
from creditdecoding.lm import LM
from creditdecoding.options import split_spec
from creditdecoding.tasks.base import (
    DefaultLimit,
    Item,
    Split,
    Task,
    distinct_items,
    generate_items,
)
from creditdecoding.trace import Event
from creditdecoding.wording import count

VERDICTS = {
    "certified": "Certified: on items like these the last setting with yes loses at most the "
    "bound.",
    "none": "No setting could be certified: stay with standard decoding.",
}
FAILURES = {
    "loses_too_much": "The first setting with no lost the bound or more on these items.",
    "too_few": "The first setting with no lost less than the bound, but the items are too few to "
    "certify it.",
}
"""One fixed line for each verdict, and for each reason of a failure."""


@dataclass(frozen=True)
class LossBound:
    """Points of score that may be lost, and with which confidence no more are.

    Raises `OptionError`.
    """

    bound: float = 1.0
    confidence: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.bound < 100:
            raise OptionError(
                "bound is out of range",
                given=self.bound,
                allowed="0 < bound < 100 points of score",
                hint="1 is usual.",
            )
        if not 0 < self.confidence < 1:
            raise OptionError(
                "confidence is out of range",
                given=self.confidence,
                allowed="0 < confidence < 1",
                hint="0.9 is usual.",
            )

    @property
    def level(self) -> float:
        """The chance of an error that is allowed."""
        return 1 - self.confidence


@dataclass(frozen=True)
class SettingResult:
    """A setting with its paired counts, mean passes, score in % and p-value."""

    spec: str
    counts: PairedCounts
    nfe: float
    score: float
    p: float
    certified: bool

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record; loss in points."""
        return {
            "setting": self.spec,
            "nfe": round(self.nfe, 3),
            "score": round(self.score, 2),
            "loss": round(100 * self.counts.loss, 2),
            "lost": self.counts.lost,
            "won": self.counts.won,
            "p": self.p,
            "certified": self.certified,
        }


@dataclass(frozen=True)
class TuneResult:
    """Standard decoding's passes and score, the settings tested in order, and those left untested.

    `needed` is how many items the failed setting would need, if its shares stayed as they are.
    """

    bound: LossBound
    items: int
    nfe: float
    score: float
    tested: tuple[SettingResult, ...]
    untested: tuple[str, ...]
    needed: int | None = None

    @property
    def certified(self) -> SettingResult | None:
        """The last setting that passed."""
        passed = [result for result in self.tested if result.certified]
        return passed[-1] if passed else None

    @property
    def chosen(self) -> str:
        """The certified decoder, else standard decoding."""
        return self.certified.spec if self.certified else REFERENCE

    @property
    def failure(self) -> str | None:
        """Why the last setting failed: a key of `FAILURES`."""
        last = self.tested[-1]
        if last.certified:
            return None
        return "loses_too_much" if 100 * last.counts.loss >= self.bound.bound else "too_few"

    def lines(self) -> list[str]:
        """The bound, and the verdict on it."""
        bound, confidence = self.bound.bound, 100 * self.bound.confidence
        items = count(self.items, "item")
        lines = [f"Bound: {count(bound, 'point')} with {confidence:g} % confidence; {items}."]
        lines.append(VERDICTS["certified" if self.certified else "none"])
        if self.failure is not None:
            lines.append(FAILURES[self.failure])
        if self.failure == "too_few":
            needed = f"more than {MOST_ITEMS:,}" if self.needed is None else f"{self.needed:,}"
            lines.append(f"Items needed if losses and gains stay as they are: {needed}.")
        return lines

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        standard = {
            "setting": REFERENCE,
            "nfe": round(self.nfe, 3),
            "score": round(self.score, 2),
        }
        return {
            **asdict(self.bound),
            "items": self.items,
            "standard": standard,
            "tested": [result.to_json() for result in self.tested],
            "untested": list(self.untested),
            "certified": self.certified.spec if self.certified else None,
            "chosen": self.chosen,
            "failure": self.failure,
            "too_few": self.failure == "too_few",
            "items_needed": self.needed,
        }


def settings_in_order(decoder: str) -> tuple[str, ...]:
    """The settings of one decoder's sweep, safest first.

    Values of a knob that is not its main one stay in the order given. Raises `OptionError`.
    """
    curves = parse_curves(decoder)
    if len(curves) != 1:
        raise OptionError("one decoder can be tuned at a time", given=decoder, hint="Name one.")
    curve = curves[0]
    settings = tuple(p.spec for p in _safest_first(curve) if p.spec != REFERENCE)
    if not curve.knob or not settings:
        raise OptionError(
            "this decoder has no sweep of settings",
            given=decoder,
            allowed=", ".join(filter(_has_sweep, names())),
            hint="Give the values to try, safest first: NAME:knob=1|2|3.",
        )
    return settings


def _has_sweep(name: str) -> bool:
    with suppress(OptionError):  # a decoder of a broken package
        return sweep_of(name) is not None
    return False


def _safest_first(curve: DecoderCurve) -> Sequence[CurvePoint]:
    sweep = sweep_of(split_spec(curve.name, "decoder")[0])
    if sweep is None or sweep.knob != curve.knob:
        return curve.points
    return sorted(curve.points, key=lambda point: float(point.value), reverse=not sweep.low_is_safe)


def draw_items(tasks: Sequence[Task], split: Split, limit: int, seed: int = 0) -> list[Item]:
    """`limit` items of each task on average, each drawn independently: first its task, then the
    item.

    Published items are drawn without repeats, as they were drawn themselves; a limit of 0 takes
    all of them, and so does a default limit that is larger. Raises `OptionError`.
    """
    if limit == 0:
        return [item for task in tasks for item in distinct_items(task, split, seed, 0)]
    rng = random.Random(f"tune/{seed}")
    counts = Counter(rng.choices([task.name for task in tasks], k=limit * len(tasks)))
    drawn: list[Item] = []
    for task in tasks:
        size = counts[task.name]
        if task.fixed_items is None:
            drawn += islice(generate_items(task, split, seed), size)
        elif isinstance(limit, DefaultLimit):
            drawn += distinct_items(task, split, seed, DefaultLimit(size)) if size else []
        elif size > len(task.fixed_items):
            raise OptionError(
                f"the limit is too large for {task.name}",
                given=f"{limit}, of which the draw of tasks makes {size}",
                allowed=f"{len(task.fixed_items)} items",
                hint="Lower --limit, or take all items with --limit 0.",
            )
        elif size:
            drawn += distinct_items(task, split, seed, size)
    return drawn


def tune(
    lm: LM,
    tasks: Sequence[Task],
    items: Sequence[Item],
    decoder: str,
    bound: LossBound,
    generation: GenerationConfig | None = None,
    on_event: Callable[[Event], None] | None = None,
    raw: bool = False,
    saved: SavedAnswers | None = None,
) -> TuneResult:
    """Test the settings of `decoder` against standard decoding; its text may pin other knobs.

    `saved` has answers of an interrupted run, and gets those of this one.
    """
    settings = settings_in_order(decoder)
    for spec in settings:
        check_supported(spec, lm.geometry)
    base = generation or GenerationConfig()

    def answer(spec: str) -> tuple[ScoredAnswer, ...]:
        setting = None if saved is None else saved.of_setting(spec)
        options = replace(base, decoder=spec)
        return answer_items(lm, tasks, items, options, on_event, raw, setting)

    standard = answer(REFERENCE)
    tested: list[SettingResult] = []
    for spec in settings:
        tested.append(_test(spec, standard, answer(spec), bound))
        if not tested[-1].certified:
            break
    result = TuneResult(
        bound=bound,
        items=len(items),
        nfe=_mean_passes(standard),
        score=_score(standard),
        tested=tuple(tested),
        untested=settings[len(tested) :],
    )
    if result.failure == "too_few":
        needed = items_needed(tested[-1].counts, bound.bound / 100, bound.level)
        result = replace(result, needed=needed)
    return result


def _test(
    spec: str,
    standard: Sequence[ScoredAnswer],
    answers: Sequence[ScoredAnswer],
    bound: LossBound,
) -> SettingResult:
    pairs = Counter((before.right, after.right) for before, after in zip(standard, answers))
    counts = PairedCounts(len(answers), lost=pairs[True, False], won=pairs[False, True])
    p = p_value(counts, bound.bound / 100)
    return SettingResult(
        spec=spec,
        counts=counts,
        nfe=_mean_passes(answers),
        score=_score(answers),
        p=p,
        certified=p <= bound.level,
    )


def _mean_passes(answers: Sequence[ScoredAnswer]) -> float:
    return sum(answer.completion.nfe for answer in answers) / len(answers)


def _score(answers: Sequence[ScoredAnswer]) -> float:
    return 100 * sum(answer.right for answer in answers) / len(answers)
