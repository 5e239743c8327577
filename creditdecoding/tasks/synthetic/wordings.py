"""Other ways to put the questions of the embedded families. Items that training draws get other
phrases than dev and test items, so that a test item's wording was never trained on.

`data/wordings.json` holds, by family, phrases as the family's own module words them ("usual") and
what may stand in their place: in training, and held out. In training some words are noise, and
more phrases are drawn ("more_training").
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import re
from pathlib import Path
from typing import Any, NamedTuple

from creditdecoding.tasks.base import Item, Task
from creditdecoding.tasks.synthetic import (
    algebra,
    arithmetic,
    discrete,
    facts,
    one_fact,
    one_step,
    other,
    output,
    program,
    rule,
    span,
    sums,
)
from creditdecoding.tasks.synthetic.noise import noisy_phrase, noisy_start

_PHRASES = Path(__file__).parent / "data" / "wordings.json"
_NAME = r"[A-Z]\w+"
_SLOTS = {
    **dict.fromkeys("nohcdx", _NAME),
    **dict.fromkeys("kmij", r"\d+"),
    **dict.fromkeys("tvb", r"[a-z]+"),
    **dict.fromkeys("pq", "capital|continent|language"),
    "l": r"[^.?!:\n]+",
    "r": r"[^.?!\n]+",
    "e": r"[^.?!,\n]+",
    "z": r"\d+[-+*/]\d+",
    "u": "[a-z]",
    "s": "[@#&]",
    "w": "[a-z]+ [a-z]+",
    "f": "[fgh]",
}
"""What may stand at a slot of a phrase, as a pattern."""

_FAMILIES = (
    facts,
    span,
    discrete,
    rule,
    program,
    output,
    arithmetic,
    algebra,
    one_step,
    one_fact,
    sums,
)
_TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in _FAMILIES}
_ALSO = {"one-step": ("arithmetic", "algebra")}
"""Families whose phrases another family uses too."""
_SLOT = re.compile(r"{(\w)}")
_OPERATOR = re.compile(r"(?<=[\w)])([-+*/=])(?=[\w(])")


class _Match(NamedTuple):
    """A usual phrase in a prompt, and what may stand in its place: phrases with their slots'
    values.
    """

    start: int
    end: int
    choices: list[tuple[str, dict[str, str]]]


@functools.cache
def _phrases() -> dict[str, Any]:
    phrases: dict[str, Any] = json.loads(_PHRASES.read_text())
    return phrases


@functools.cache
def _patterns(family: str, kind: str, noisy: bool) -> list[tuple[re.Pattern[str], tuple[str, ...]]]:
    """Each usual phrase of a family as a pattern, and the phrases of `kind` in its place."""
    patterns = []
    for group in (group for name in (family, *_ALSO.get(family, ())) for group in _phrases()[name]):
        for usual in group["usual"]:
            slots = set(_SLOT.findall(usual))
            drawn = _drawn(group, kind, noisy)
            phrases = [text for text in drawn if slots.issuperset(_SLOT.findall(text))]
            patterns.append((_pattern(usual), tuple(phrases)))
    return patterns


def _drawn(group: dict[str, list[str]], kind: str, noisy: bool) -> list[str]:
    """The phrases of a kind; where noise is wanted, the further ones, too."""
    more = group.get(f"more_{kind}", []) if noisy else []
    return group[kind] + more


def _pattern(phrase: str) -> re.Pattern[str]:
    """The phrase as a pattern for whole sentences; a slot that comes twice is equal to itself."""
    seen: set[str] = set()

    def slot(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return f"(?P<{name}>{_SLOTS[name]})"

    escaped = re.sub(r"\\{(\w)\\}", slot, re.escape(phrase))
    return re.compile(rf"(?:^|(?<=[.?!:] )){escaped}(?=$|\s)", re.MULTILINE)


@functools.cache
def _held_out() -> frozenset[str]:
    """All phrases that training must not see."""
    groups = [group for name in _TASKS for group in _phrases()[name]]
    return frozenset(phrase for group in groups for phrase in group["held_out"])


def reword(prompt: str, family: str, kind: str, rng: random.Random, noisy: bool = False) -> str:
    """The prompt with every usual phrase in another one of `kind` (training or held_out), `noisy`
    or not.
    """
    matches: dict[int, _Match] = {}
    for pattern, phrases in _patterns(family, kind, noisy):
        for wording in pattern.finditer(prompt):
            match = matches.setdefault(wording.start(), _Match(*wording.span(), []))
            match.choices.extend((phrase, wording.groupdict()) for phrase in phrases)
    for match in sorted(matches.values(), key=lambda match: match.start, reverse=True):
        phrase, values = rng.choice(match.choices)
        if noisy:
            phrase = noisy_phrase(phrase, _held_out(), other.any_word, rng)
        prompt = prompt[: match.start] + phrase.format(**values) + prompt[match.end :]
    return prompt


def loosen(prompt: str, kind: str, rng: random.Random, noisy: bool = False) -> str:
    """The prompt as somebody types it: a greeting, thanks, blanks, no full stop, no capital.

    Code after the first line stays as it is.
    """
    question, newline, code = prompt.partition("\n")
    if rng.random() < 0.25:
        question = rng.choice(_drawn(_phrases()["start"], kind, noisy)).format(x=question)
    elif rng.random() < 0.15:
        question = question[0].lower() + question[1:]
    ending = rng.random()
    if ending < 0.3:
        question = question.rstrip(".?!")
    elif ending < 0.4:
        question = question.rstrip(".?!") + rng.choice((" ?", "??", "!", ".", " .", "..."))
    elif ending < 0.5 and not code:
        question = rng.choice(_drawn(_phrases()["end"], kind, noisy)).format(x=question)
    if rng.random() < 0.15:
        gap = rng.choice([match.start() for match in re.finditer(" ", question)] or [0])
        question = question[:gap] + " " + question[gap:]
    return question + newline + code


def space_operators(text: str, rng: random.Random) -> str:
    """Equations and sums with blanks around their signs, half of the time."""
    return _OPERATOR.sub(r" \1 ", text) if rng.random() < 0.5 else text


def make(rng: random.Random) -> Item:
    """One question of a family, in other words. It shares the split of the question it rewords."""
    task = _TASKS[rng.choice(list(_TASKS))]
    item = task.make(rng)
    kind = "training" if item.split == "train" else "held_out"
    prompt = _in_other_words(item, kind, rng)
    if kind == "training":
        # Noise has draws of its own: those of `rng` decide which items are tested.
        prompt = noisy_prompt(item, random.Random(prompt))
    return dataclasses.replace(item, task="wordings", prompt=prompt, split_as=item.task)


def noisy_prompt(item: Item, rng: random.Random) -> str:
    """The prompt of a family's item with training's phrases, and with noise."""
    prompt = _in_other_words(item, "training", rng, noisy=True)
    return noisy_start(prompt, other.any_word, rng)


def _in_other_words(item: Item, kind: str, rng: random.Random, noisy: bool = False) -> str:
    prompt = reword(item.prompt, item.task, kind, rng, noisy)
    if item.task in ("algebra", "sums", "one-step"):
        prompt = space_operators(prompt, rng)
    return loosen(prompt, kind, rng, noisy)


def score(text: str, item: Item) -> bool:
    """As the family of the item scores it."""
    assert item.split_as is not None
    return _TASKS[item.split_as].score(text, item)


TASK = Task(
    "wordings",
    "the families in other words",
    make,
    score,
    train_weight=12,
)
