"""The live page: a question, two rules next to each other, the answer after every pass. One HTML
document without outside requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

import jinja2

from creditdecoding.decoders import describe, names, settings
from creditdecoding.decoders.base import Decoder
from creditdecoding.lm import LM
from creditdecoding.tasks.base import distinct_items
from creditdecoding.tasks.synthetic import POCKET_V2_TASKS
from creditdecoding.viewer.html import player_html
from creditdecoding.viewer.labels import name_label

DEFAULT_LENGTH = 96  # tokens of an answer
POCKET = "pocket"
_QUESTION_SEED = 2
_KINDS = {
    "arithmetic": "word problem",
    "algebra": "algebra",
    "facts": "look-up",
    "span": "extraction",
    "discrete": "reading",
    "rule": "a rule to apply",
    "program": "a program",
    "output": "program output",
    "list-sort": "a list to sort",
    "list-shuffle": "a list to shuffle",
}
"""Kinds of question that the embedded model answers; the page begins with the first."""
_OPEN_QUESTIONS = (
    ("a fact", "What is the capital of Belgium?"),
    ("an explanation", "What does a doctor do?"),
    ("a list", "Reverse this list: red, green, blue, white."),
    ("a rewrite", "Write this sentence in capital letters: The cat likes the red ball."),
)
"""Questions for other models, which smol can answer too."""
_PLAIN_RULES = {
    "fixed": "One token a pass, the most confident one. The slowest, and what others are held to.",
    "threshold": "Writes every token whose confidence reaches the threshold.",
    "credit": "As threshold, but tokens that the model has favoured for some passes get credit.",
    "thrift": "A high threshold, and less sure tokens only where that saves a whole pass.",
}
"""The rules to try first, in words for those who do not know them."""
_SAFE_SETTINGS = dict.fromkeys(("threshold", "credit", "thrift"), "threshold=0.999")
"""Settings of the embedded model that lose next to nothing, as in `credit demo`."""


@dataclass(frozen=True)
class RuleChoice:
    """A decoder in the page's list: name, label, one line on it, and settings to begin with."""

    name: str
    label: str
    line: str
    settings: str


def live_page(lm: LM, name: str) -> str:
    """The page as HTML, for a model served under a name."""
    static = files(__package__) / "static"
    template = jinja2.Environment(autoescape=True).from_string(
        (static / "live.html").read_text("utf-8")
    )
    rules = list(_rules(name, lm.defaults.get("decoder")))
    form = template.render(
        model=name,
        questions=list(_questions(name)),
        first_rules=[rule for rule in rules if rule.name in _PLAIN_RULES],
        other_rules=[rule for rule in rules if rule.name not in _PLAIN_RULES],
        longest=lm.max_length - 1,
        length=min(DEFAULT_LENGTH, lm.max_length // 2),
    )
    script = (static / "live.js").read_text("utf-8")
    style = (static / "live.css").read_text("utf-8")
    return player_html(f"{name}, live", form, [], script, style)


def _questions(model: str) -> Iterator[tuple[str, str]]:
    """Questions to click: a word on the kind, and the question."""
    if model != POCKET:
        yield from _OPEN_QUESTIONS
        return
    for name, kind in _KINDS.items():
        (item,) = distinct_items(POCKET_V2_TASKS[name], "test", _QUESTION_SEED, 1)
        yield kind, item.prompt


def _rules(model: str, preferred: Decoder | None) -> Iterator[RuleChoice]:
    """All decoders, those to try first in front.

    The decoder that the checkpoint or the operator names has its own settings.
    """
    own = {} if preferred is None else settings(preferred)
    for name in dict.fromkeys([*_PLAIN_RULES, *names()]):
        line = _PLAIN_RULES.get(name) or describe(name)["rule"]
        text = _SAFE_SETTINGS.get(name, "") if model == POCKET else ""
        if own.get("name") == name:
            knobs = {knob: value for knob, value in own.items() if knob != "name"}
            text = ",".join(f"{knob}={value}" for knob, value in knobs.items())
        yield RuleChoice(name, name_label(name), line, text)
