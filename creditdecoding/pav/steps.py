"""Answers in steps: where a step ends, and the state that the finished steps make.

A step is the text up to and including the delimiter that its task declares ("." or a line's end),
or so many tokens, such as a decoding block;
the rest of an answer behind its last delimiter is its last step. A state is the prompt and the
finished steps, everything behind them masked
(arXiv 2410.08146, section 2). A step may end anywhere in a decoding block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from creditdecoding.errors import OptionError
from creditdecoding.tasks.base import Task

Delimiter = str | int
"""What ends a step: a text, or that it has so many tokens."""


@dataclass(frozen=True)
class PartialAnswer:
    """The ids of a prompt and of the answer as far as it is finished; `ends` says behind how many
    of them each step ended.

    `done`: the answer is complete (`reason` "stop"), or its canvas is full ("length").
    """

    prompt: tuple[int, ...]
    written: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    done: bool = False
    reason: str = ""

    @property
    def depth(self) -> int:
        """Steps so far."""
        return len(self.ends)

    def prefix(self, steps: int) -> PartialAnswer:
        """The state after the first `steps` steps; all of them is this state itself."""
        if steps >= self.depth:
            return self
        return PartialAnswer(
            self.prompt, self.written[: self.ends[steps - 1]] if steps else (), self.ends[:steps]
        )

    @property
    def prefixes(self) -> list[PartialAnswer]:
        """The states after 0, 1, ... all of its steps."""
        return [self.prefix(steps) for steps in range(self.depth + 1)]


def task_delimiter(family: Task, given: str | None = None) -> Delimiter:
    """What ends a step of the family's answers: what was `given`, as typed, or else what the task
    declares. Raises `OptionError` for neither.
    """
    if given is not None:
        return parse_delimiter(given)
    if not family.step_delimiter:
        hint = "Say it with --delimiter (credit pav collect, credit pav rl), in Task(step_delimiter=...), or choose a task that is worked out in steps."
        raise OptionError(
            "this task does not say what ends a step of its answers", given=family.name, hint=hint
        )
    return family.step_delimiter


def parse_delimiter(text: str) -> Delimiter:
    """The delimiter that somebody wrote on a command line, \\n for a line's end, "8 tokens" for a
    number. Raises `OptionError` for none.
    """
    counted = re.fullmatch(r"(\d+) tokens?", text)
    if not text or (counted and int(counted[1]) == 0):
        raise OptionError(
            "nothing ends a step",
            given=text,
            hint="Give a --delimiter, such as . or \\n or 8 tokens.",
        )
    return int(counted[1]) if counted else text.replace("\\n", "\n")


def step_ends(
    ids: Sequence[int],
    delimiter: Delimiter,
    decode: Callable[[Sequence[int]], str],
    since: int = 0,
    limit: int | None = None,
) -> list[int]:
    """Behind how many of `ids` a step ends, at most `limit` of them, looking only behind the first
    `since` ids (where a step ended).

    A token that holds the delimiter ends a step; a step without text (an empty line) is no step of
    its own: the next one begins with it.
    Steps of so many tokens are counted from the beginning of the answer.
    """
    if isinstance(delimiter, int):
        return [*range((since // delimiter + 1) * delimiter, len(ids) + 1, delimiter)][:limit]
    found: list[int] = []
    start = since
    for end in range(since + 1, len(ids) + 1):
        if limit is not None and len(found) == limit:
            break
        text = decode(ids[start:end])
        if delimiter in text and text.replace(delimiter, "").strip():
            found.append(end)
            start = end
    return found


def extend(
    state: PartialAnswer,
    ids: Sequence[int],
    delimiter: Delimiter,
    decode: Callable[[Sequence[int]], str],
    limit: int | None = None,
) -> PartialAnswer:
    """The state with the steps that end within `ids`, which begin with its own; at most `limit`
    more.
    """
    since = len(state.written)
    found = step_ends(ids, delimiter, decode, since, limit)
    return (
        replace(state, written=tuple(ids[: found[-1]]), ends=(*state.ends, *found))
        if found
        else state
    )


def complete(
    state: PartialAnswer,
    ids: Sequence[int],
    reason: str,
    delimiter: Delimiter,
    decode: Callable[[Sequence[int]], str],
) -> PartialAnswer:
    """The state of a whole answer: what is behind its last delimiter is its last step."""
    whole = extend(state, ids, delimiter, decode)
    ends = whole.ends if whole.written == tuple(ids) and whole.ends else (*whole.ends, len(ids))
    return PartialAnswer(state.prompt, tuple(ids), ends, True, reason)
