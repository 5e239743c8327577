"""Labelled states as JSONL, made so that a run can be killed at any time: a header, then problem
after problem, then an end.

The header says whose labels these are and how they were made. A problem's labels, a state a line
with its counts, then its answers, every complete one that was drawn with how often it was, come
together with the mark that ends them, which says what they cost; what has no mark behind it is
dropped when the run goes on. The end says that all problems are there.

Stores of version 1 have no lines of answers: of theirs only those are known that are labels too.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from typing import Any

from creditdecoding import run_dir as journal
from creditdecoding.errors import OptionError
from creditdecoding.fingerprint import Identity
from creditdecoding.pav.sampler import Cost
from creditdecoding.pav.steps import PartialAnswer

KIND, VERSION = "pav labels", 2
READABLE = (1, VERSION)
"""Versions of stores that can be read."""
FREE = ("model",)
"""Settings that may differ when a run goes on: where the checkpoint lies; that it is the same one
its digest says.
"""
AGAIN = "Run the same credit pav collect command again: it goes on where it stopped."

ProblemKey = tuple[str, int]
"""A family's name and the number of a problem."""


@dataclass(frozen=True)
class Label:
    """A state of problem `problem` of a family, and how often it ended right: `wins` of `draws`
    continuations.
    """

    family: str
    problem: int
    state: PartialAnswer
    wins: int
    draws: int

    @property
    def value(self) -> float:
        """Mean success: the soft label."""
        return self.wins / self.draws


@dataclass(frozen=True)
class Labels:
    """A store that was read: whose labels these are, how they were made, labels and answers.

    `labels` are of states, each there once. `answers` are all complete answers that were drawn on
    the way, from whatever state, and judged: `draws` says how often each was drawn.
    """

    identity: Identity
    settings: Mapping[str, Any]
    labels: tuple[Label, ...]
    answers: tuple[Label, ...] = ()

    @property
    def outcomes(self) -> tuple[Label, ...]:
        """The answers; of problems without any (in stores of version 1) the labels of complete
        ones.
        """
        known = {(answer.family, answer.problem) for answer in self.answers}
        ends = (label for label in self.labels if label.state.done)
        rest = (label for label in ends if (label.family, label.problem) not in known)
        return (*self.answers, *rest)


@dataclass(frozen=True)
class LabelCost:
    """What labels cost: answers drawn, what was computed for them, seconds of the clock."""

    rollouts: int = 0
    cost: Cost = Cost()
    seconds: float = 0.0

    def __add__(self, other: LabelCost) -> LabelCost:
        return LabelCost(
            self.rollouts + other.rollouts, self.cost + other.cost, self.seconds + other.seconds
        )

    def to_json(self) -> dict[str, Any]:
        """A flat record."""
        return {
            "rollouts": self.rollouts,
            **dataclasses.asdict(self.cost),
            "seconds": round(self.seconds, 4),
        }


@dataclass(frozen=True)
class StoreHeader:
    """Whose labels a store holds, how they are made, and of how many problems."""

    identity: Identity
    settings: Mapping[str, Any]
    problems: int

    def to_json(self) -> dict[str, Any]:
        """The first line."""
        about = {
            "identity": dataclasses.asdict(self.identity),
            "settings": self.settings,
            "problems": self.problems,
        }
        return {"kind": KIND, "version": VERSION, **about}


@dataclass
class StoreContents:
    """What a store holds so far: labels and answers by problem, what they cost, how many of its
    bytes are whole, whether it has its end.
    """

    header: StoreHeader
    labels: dict[ProblemKey, tuple[Label, ...]] = field(default_factory=dict)
    answers: dict[ProblemKey, tuple[Label, ...]] = field(default_factory=dict)
    bill: LabelCost = LabelCost()
    size: int = 0
    ended: bool = False

    @property
    def count(self) -> int:
        """Labels."""
        return sum(map(len, self.labels.values()))


class LabelStore:
    """A store that is being written: `found` is what it holds."""

    def __init__(self, file: RawIOBase, found: StoreContents, path: Path) -> None:
        self.found, self._file, self._path = found, file, path

    def add(
        self,
        key: ProblemKey,
        labels: Sequence[Label],
        bill: LabelCost,
        answers: Sequence[Label] = (),
    ) -> None:
        """Append a problem's labels and answers with their mark; the last problem brings the end."""
        assert key not in self.found.labels
        assert all((label.family, label.problem) == key for label in (*labels, *answers))
        self.found.labels[key] = tuple(labels)
        self.found.answers[key] = tuple(answers)
        self.found.bill += bill
        mark = {
            "kind": "problem",
            "family": key[0],
            "problem": key[1],
            "labels": len(labels),
            "answers": len(answers),
            **bill.to_json(),
        }
        lines = [_line("label", label) for label in labels]
        lines += [_line("answer", answer) for answer in answers]
        self._write(*lines, mark)
        self._close()

    def _close(self) -> None:
        if not self.found.ended and len(self.found.labels) == self.found.header.problems:
            self.found.ended = True
            self._write(
                {
                    "kind": "end",
                    "problems": len(self.found.labels),
                    "labels": self.found.count,
                    **self.found.bill.to_json(),
                }
            )

    def _write(self, *records: Mapping[str, Any]) -> None:
        data = b"".join(map(journal.json_line, records))
        journal.append_bytes(self._file, data, self._path)


@contextmanager
def open_store(path: Path, header: StoreHeader) -> Iterator[LabelStore]:
    """A store to append to, made or taken up where it stopped. Raises `OptionError` where the file
    is another run's, in use or something else.
    """
    with journal.locked_file(path, "Wait for it, or choose another file.") as file:
        first = journal.json_line(header.to_json())
        with open(path, "rb") as now:
            there = now.read(len(first))
        if first.startswith(there) and there != first:  # new, or killed while it was
            os.truncate(path, 0)
            journal.append_bytes(file, first, path)
        found = read_store(path)
        _agree(path, found.header, header)
        if found.size < path.stat().st_size:
            os.truncate(path, found.size)
        store = LabelStore(file, found, path)
        store._close()
        yield store
        os.fsync(file.fileno())


def _agree(path: Path, there: StoreHeader, here: StoreHeader) -> None:
    """Hold a run to what the store was begun with."""
    theirs, ours = (_plain({**each.settings, "problems": each.problems}) for each in (there, here))
    differ = [
        name
        for name in {**ours, **theirs}
        if name not in FREE and ours.get(name) != theirs.get(name)
    ]
    hint = "Choose another file, or the same settings."
    if differ:
        shown = ", ".join(f"{name} ({theirs.get(name)!r} there)" for name in differ)
        raise OptionError(
            f"this store was begun with other settings: {shown}", given=str(path), hint=hint
        )
    if there.identity.difference(here.identity):
        raise OptionError(
            "this store was begun with another model or tokenizer", given=str(path), hint=hint
        )


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def load_labels(path: str | Path) -> Labels:
    """Read a finished store, its problems in the order of their tasks. Raises `OptionError` for one
    that is not finished, or something else.
    """
    found = read_store(Path(path))
    if not found.ended:
        there = f"{len(found.labels)} of {found.header.problems} problems"
        raise OptionError(
            "this store of labels has no end: it was not finished or is cut off",
            given=f"{path}, {there}",
            hint=AGAIN,
        )
    order = {name: place for place, name in enumerate(found.header.settings.get("tasks", ()))}
    keys = sorted(found.labels, key=lambda key: (order.get(key[0], len(order)), *key))
    labels = tuple(label for key in keys for label in found.labels[key])
    answers = tuple(answer for key in keys for answer in found.answers[key])
    return Labels(found.header.identity, found.header.settings, labels, answers)


def read_store(path: Path) -> StoreContents:
    """What a store holds, finished or not. Raises `OptionError` for other files and for broken
    lines, with their number.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise OptionError(
            f"the store of labels cannot be read ({error.strerror})",
            given=str(path),
            hint="Check the path.",
        ) from error
    if not lines:
        raise OptionError(
            "the store of labels is empty",
            given=str(path),
            hint="Make one with credit pav collect.",
        )
    found = StoreContents(_header(path, lines[0]), size=len(lines[0]))
    pending: dict[str, list[Label]] = {"label": [], "answer": []}
    size = found.size
    for number, line in enumerate(itertools.islice(lines, 1, None), 2):
        size += len(line)
        if not line.endswith(b"\n"):
            break  # torn off
        try:
            if _take(found, pending, json.loads(line)):
                found.size = size
        except (ValueError, LookupError, TypeError) as error:
            what = f"line {number} of the store of labels is broken ({error})"
            raise OptionError(
                what, given=str(path), hint="Take its problem out, or collect anew."
            ) from error
    return found


def _header(path: Path, line: bytes) -> StoreHeader:
    try:
        head = json.loads(line)
        if head["kind"] == KIND and head["version"] in READABLE:
            return StoreHeader(
                Identity(**head["identity"]), dict(head["settings"]), int(head["problems"])
            )
        what = f"{head['kind']!r} of version {head['version']!r}"
    except (ValueError, LookupError, TypeError):
        what = "something else"
    raise OptionError(
        f"not a store of labels but {what}",
        given=str(path),
        hint="Give a file that credit pav collect wrote.",
    )


def _take(
    found: StoreContents, pending: Mapping[str, list[Label]], record: Mapping[str, Any]
) -> bool:
    """Take a line up; whether it is a mark, so that all up to it is whole.

    `pending` holds what came since the last mark. Raises `ValueError` and its like for lines that
    cannot be there.
    """
    kind = record["kind"]
    if found.ended:
        raise ValueError("it is behind the end")
    if kind in pending:
        label = _label(record)
        if kind == "answer" and not label.state.done:
            raise ValueError("it is no complete answer")
        pending[kind].append(label)
        return False
    if kind == "problem":
        _mark(found, pending, record)
        return True
    if kind != "end" or any(pending.values()):
        raise ValueError("it is no label")
    if record["problems"] != len(found.labels) or record["labels"] != found.count:
        raise ValueError("problems before it are missing")
    found.ended = True
    return True


def _mark(
    found: StoreContents, pending: Mapping[str, list[Label]], record: Mapping[str, Any]
) -> None:
    """Take up the mark of a problem, whose labels and answers are pending. Raises `ValueError`."""
    key = (str(record["family"]), int(record["problem"]))
    counts = {"label": record["labels"], "answer": record.get("answers", 0)}
    for kind, labels in pending.items():
        others = {(label.family, label.problem) for label in labels} - {key}
        if others or len(labels) != counts[kind]:
            raise ValueError(f"{kind}s of its problem are missing")
        if key in found.labels or len({label.state for label in labels}) != len(labels):
            raise ValueError("a problem or a state is there twice")
    found.labels[key] = tuple(pending["label"])
    found.answers[key] = tuple(pending["answer"])
    cost = Cost(**{f.name: record[f.name] for f in dataclasses.fields(Cost)})
    found.bill += LabelCost(record["rollouts"], cost, record["seconds"])
    for labels in pending.values():
        labels.clear()


def _line(kind: str, label: Label) -> dict[str, Any]:
    counts = {"wins": label.wins, "draws": label.draws}
    of = {"family": label.family, "problem": label.problem}
    return {"kind": kind, **of, **vars(label.state), **counts}


def _label(record: Mapping[str, Any]) -> Label:
    wins, draws = _whole(record["wins"]), _whole(record["draws"])
    if not 0 <= wins <= draws or draws < 1:
        raise ValueError(f"the label {wins} of {draws} lies outside [0, 1]")
    prompt, written, ends = (
        tuple(map(_whole, record[name])) for name in ("prompt", "written", "ends")
    )
    if (
        not prompt
        or min(0, *prompt, *written) < 0
        or list(ends) != sorted(set(ends))
        or (ends and not 0 <= ends[0] <= ends[-1] <= len(written))
    ):
        raise ValueError("its state is none")
    state = PartialAnswer(prompt, written, ends, bool(record["done"]), str(record["reason"]))
    return Label(str(record["family"]), _whole(record["problem"]), state, wins, draws)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a whole number")
    return value
