"""Answers in steps: where a step ends, and the partial answers that finished steps make.

A step is the text up to and including the delimiter that its task declares ("." or a line's end),
or a fixed number of tokens, such as a decoding block. Text after the last delimiter is the last
step. A partial answer is a state of the search: the prompt and the finished steps, with everything
after them masked (arXiv 2410.08146, section 2). A step may end anywhere in a decoding block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from creditdecoding.errors import OptionError
from creditdecoding.tasks.base import Task

Delimiter = str | int
"""What ends a step: a text, or a number of tokens."""
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class PartialAnswer:
    """The ids of a prompt and of the finished steps of an answer.

    `ends[i]` is the number of `written` ids after which step i ends. `done` answers are complete
    (`reason` "stop") or fill their canvas ("length").
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

    @property
    def length(self) -> int:
        """Ids of the prompt and of the steps."""
        return len(self.prompt) + len(self.written)

    def prefix(self, steps: int) -> PartialAnswer:
        """The state after the first `steps` steps; with all steps, this state itself."""
        if steps >= self.depth:
            return self
        end = self.ends[steps - 1] if steps else 0
        return PartialAnswer(self.prompt, self.written[:end], self.ends[:steps])

    @property
    def prefixes(self) -> list[PartialAnswer]:
        """The states after 0, 1, ... all of its steps."""
        return [self.prefix(steps) for steps in range(self.depth + 1)]

    @property
    def digest_text(self) -> str:
        """A text that digests are made of; stores and verifiers of all versions agree on it."""
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"State({fields})"


def task_delimiter(task: Task, text: str | None = None) -> Delimiter:
    """The delimiter a user typed as `text`, or else the one that the task declares.

    Raises `OptionError` if there is neither.
    """
    if text is not None:
        return parse_delimiter(text)
    if not task.step_delimiter:
        raise OptionError(
            "this task does not say what ends a step of its answers",
            given=task.name,
            hint="Give --delimiter (credit pav collect, credit pav rl), declare it with "
            "Task(step_delimiter=...), or choose a task with worked answers.",
        )
    return task.step_delimiter


def parse_delimiter(text: str) -> Delimiter:
    """Read a delimiter from a command line: a text with \\n for a line's end, or "8 tokens".

    Raises `OptionError` for an empty text and for 0 tokens.
    """
    size = re.fullmatch(r"(\d+) tokens?", text)
    if not text or (size and int(size[1]) == 0):
        raise OptionError(
            "nothing ends a step",
            given=text,
            hint="Give a --delimiter, such as . or \\n or 8 tokens.",
        )
    return int(size[1]) if size else text.replace("\\n", "\n")


def step_ends(
    ids: Sequence[int],
    delimiter: Delimiter,
    decode: Decode,
    since: int = 0,
    limit: int | None = None,
) -> list[int]:
    """Numbers of `ids` after which a step ends, at most `limit` of them.

    The search starts at id `since`, where a step ended. A token that contains the delimiter ends a
    step. A step without text (an empty line) joins the next step. Steps of a fixed number of tokens
    are counted from the beginning of the answer.
    """
    if isinstance(delimiter, int):
        first = (since // delimiter + 1) * delimiter
        return [*range(first, len(ids) + 1, delimiter)][:limit]
    ends: list[int] = []
    start = since
    for end in range(since + 1, len(ids) + 1):
        if limit is not None and len(ends) == limit:
            break
        text = decode(ids[start:end])
        if delimiter in text and text.replace(delimiter, "").strip():
            ends.append(end)
            start = end
    return ends


def extend(
    state: PartialAnswer,
    ids: Sequence[int],
    delimiter: Delimiter,
    decode: Decode,
    limit: int | None = None,
) -> PartialAnswer:
    """Add the steps that end within `ids`, at most `limit`. `ids` begins with the state's own."""
    ends = step_ends(ids, delimiter, decode, len(state.written), limit)
    if not ends:
        return state
    return replace(state, written=tuple(ids[: ends[-1]]), ends=(*state.ends, *ends))


def complete(
    state: PartialAnswer, ids: Sequence[int], reason: str, delimiter: Delimiter, decode: Decode
) -> PartialAnswer:
    """The state of a whole answer; what comes after its last delimiter is its last step."""
    whole = extend(state, ids, delimiter, decode)
    ends = whole.ends
    if not ends or whole.written != tuple(ids):
        ends = (*ends, len(ids))
    return PartialAnswer(state.prompt, tuple(ids), ends, True, reason)
