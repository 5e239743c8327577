"""The fastest setting of a decoder whose loss of score is below a bound with stated confidence:
learn then test, in a fixed order.

Settings are tried from the safest to the fastest, each by a valid p-value (risk.py) at level 1 -
confidence, and the first that fails ends
it: in an order that no answer has a say in, no setting needs a correction for the others, and with
the stated confidence all certified ones
keep the bound (Angelopoulos et al., Learn then Test, arXiv 2110.01052: fixed sequence testing).
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import names
from creditdecoding.decoding.request import check_supported
from creditdecoding.errors import OptionError
from creditdecoding.eval.evaluate import ScoredAnswer, answer_items
from creditdecoding.eval.paired_test import MOST_ITEMS, PairedCounts, items_needed, p_value
from creditdecoding.eval.saved_answers import SavedAnswers
from creditdecoding.eval.sweep import REFERENCE, DecoderCurve, parse_curves, sweep_of
from creditdecoding.lm import LM
from creditdecoding.tasks.base import Item, Split, Task, distinct_items, generate_items
from creditdecoding.trace import Event


@dataclass(frozen=True)
class LossBound:
    """Points of score that may be lost, and the confidence with which no more are. Raises
    `OptionError`.
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
        """The chance of being wrong that is allowed."""
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
    """What was found: standard decoding's passes and score, the settings tested in order, those
    left untested, items needed at the failure.
    """

    bound: LossBound
    items: int
    nfe: float
    score: float
    tested: tuple[SettingResult, ...]
    untested: tuple[str, ...]
    needed: int | None

    @property
    def certified(self) -> SettingResult | None:
        """The last setting that passed."""
        return next((each for each in reversed(self.tested) if each.certified), None)

    @property
    def chosen(self) -> str:
        """The certified decoder, else standard decoding."""
        return self.certified.spec if self.certified else REFERENCE

    def words(self) -> list[str]:
        """The verdict in sentences."""
        bound, confidence = f"{self.bound.bound:g} points", f"{100 * self.bound.confidence:g} %"
        best = self.certified
        if best is None:
            said = [
                f"No setting could be certified to lose at most {bound} with {confidence} confidence: stay with standard decoding."
            ]
        else:
            gain = f"{self.nfe / best.nfe:.2f} times fewer passes than standard decoding"
            said = [
                f"{best.spec} loses at most {bound} on items like these with {confidence} confidence, and takes {gain}."
            ]
        return said + [self._why(self.tested[-1])] * (not self.tested[-1].certified)

    def _why(self, failed: SettingResult) -> str:
        found = f"{failed.spec} could not: it lost {100 * failed.counts.loss:+.2f} points on {self.items} items"
        if 100 * failed.counts.loss >= self.bound.bound:
            return f"{found}, so it loses too much."
        count = f"about {self.needed:,}" if self.needed else f"more than {MOST_ITEMS:,}"
        return f"{found}, and the data are too few: {count} items would be needed if this went on."

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            **dataclasses.asdict(self.bound),
            "items": self.items,
            "standard": {
                "setting": REFERENCE,
                "nfe": round(self.nfe, 3),
                "score": round(self.score, 2),
            },
            "tested": [each.to_json() for each in self.tested],
            "untested": list(self.untested),
            "certified": self.certified.spec if self.certified else None,
            "chosen": self.chosen,
            "too_few": bool(self.tested)
            and not self.tested[-1].certified
            and 100 * self.tested[-1].counts.loss < self.bound.bound,
            "items_needed": self.needed,
            "words": self.words(),
        }


def settings_in_order(decoder: str) -> tuple[str, ...]:
    """The settings of one decoder's sweep, safest first; values of a knob that is not its main one
    in the order given. Raises `OptionError`.
    """
    found = parse_curves(decoder)
    if len(found) != 1:
        raise OptionError("one decoder can be tuned at a time", given=decoder, hint="Name one.")
    curve = found[0]
    chosen = [point.spec for point in _safest_first(curve) if point.spec != REFERENCE]
    if not curve.knob or not chosen:
        hint = "Give the values to try, safest first: NAME:knob=1|2|3."
        raise OptionError(
            "this decoder has no sweep of settings",
            given=decoder,
            allowed=", ".join(filter(sweep_of, names())),
            hint=hint,
        )
    return tuple(chosen)


def _safest_first(curve: DecoderCurve) -> Sequence[Any]:
    sweep = sweep_of(curve.name.partition(":")[0])
    if sweep is None or sweep.knob != curve.knob:
        return curve.points
    return sorted(curve.points, key=lambda point: float(point.value), reverse=not sweep.low_is_safe)


def draw_items(families: Sequence[Task], split: Split, limit: int, seed: int = 0) -> list[Item]:
    """`limit` items a family on average, each drawn independently: first its family, all alike,
    then the item. Raises `OptionError`.

    Published items are drawn without repeats, as they were drawn themselves; with a limit of 0 all
    are taken.
    """
    if limit == 0:
        return [item for family in families for item in distinct_items(family, split, seed, 0)]
    rng = random.Random(f"tune/{seed}")
    shares = Counter(rng.choices([family.name for family in families], k=limit * len(families)))
    chosen: list[Item] = []
    for family in families:
        count = shares[family.name]
        if family.fixed_items is None:
            chosen += islice(generate_items(family, split, seed), count)
        elif count > len(family.fixed_items):
            what, hint = (
                f"the limit is too large for {family.name}",
                "Lower --limit, or take all items with --limit 0.",
            )
            raise OptionError(
                what,
                given=f"{limit}, of which the draw of families makes {count}",
                allowed=f"{len(family.fixed_items)} items",
                hint=hint,
            )
        elif count:
            chosen += distinct_items(family, split, seed, count)
    return chosen


def tune(
    lm: LM,
    families: Sequence[Task],
    chosen: Sequence[Item],
    decoder: str,
    promise: LossBound,
    generation: GenerationConfig | None = None,
    on_event: Callable[[Event], None] | None = None,
    raw: bool = False,
    kept: SavedAnswers | None = None,
) -> TuneResult:
    """Test the settings of `decoder` on the items `drawn`, against standard decoding; its file or
    text may pin other knobs.

    `kept` holds answers of an earlier run and takes those of this one.
    """
    settings = settings_in_order(decoder)
    for spec in settings:
        check_supported(spec, lm.geometry)
    asked = generation if generation is not None else GenerationConfig()

    def run(spec: str) -> tuple[ScoredAnswer, ...]:
        cell = None if kept is None else kept.of_setting(spec)
        return answer_items(
            lm, families, chosen, dataclasses.replace(asked, decoder=spec), on_event, raw, cell
        )

    standard = run(REFERENCE)
    tested: list[SettingResult] = []
    for spec in settings:
        samples = run(spec)
        tested.append(_test(spec, standard, samples, promise))
        if not tested[-1].certified:
            break
    last = tested[-1]
    more = (
        None
        if last.certified or 100 * last.counts.loss >= promise.bound
        else items_needed(last.counts, promise.bound / 100, promise.level)
    )
    return TuneResult(
        promise,
        len(chosen),
        _passes(standard),
        _score(standard),
        tuple(tested),
        settings[len(tested) :],
        more,
    )


def _test(
    spec: str, standard: Sequence[ScoredAnswer], samples: Sequence[ScoredAnswer], promise: LossBound
) -> SettingResult:
    pairs = Counter((before.right, after.right) for before, after in zip(standard, samples))
    counts = PairedCounts(len(samples), pairs[True, False], pairs[False, True])
    p = p_value(counts, promise.bound / 100)
    return SettingResult(spec, counts, _passes(samples), _score(samples), p, p <= promise.level)


def _passes(samples: Sequence[ScoredAnswer]) -> float:
    return sum(sample.completion.nfe for sample in samples) / len(samples)


def _score(samples: Sequence[ScoredAnswer]) -> float:
    return 100 * sum(sample.right for sample in samples) / len(samples)
