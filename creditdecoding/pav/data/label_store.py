"""The label store: labelled states as JSON lines, readable after a kill at any time.

The first line says for which model the labels are and how they were made. Then come problems, one
after the other: a line for each labelled state, a line for each complete answer that was drawn, and
a line that ends the problem and holds its cost. Lines without the line that ends their problem are
dropped when the run continues. The last line says that all problems are there.

Stores of version 1 have no lines of answers; their answers are the labels of complete states.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from typing import Any

from creditdecoding.errors import OptionError, os_errors
from creditdecoding.fingerprint import Identity
from creditdecoding.pav.problems import ProblemKey
from creditdecoding.pav.sampler import Cost
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.run_dir import append_bytes, check_settings, json_line, locked_file

KIND = "pav labels"
VERSION = 2
READABLE_VERSIONS = (1, VERSION)
FREE_SETTINGS = ("model",)
"""Settings that may differ when a run continues: the path of the checkpoint."""


@dataclass(frozen=True)
class Label:
    """A state of a problem, and how often it ended correctly: `wins` of `draws` completions."""

    family: str
    problem: int
    state: PartialAnswer
    wins: int
    draws: int

    @property
    def key(self) -> ProblemKey:
        """The problem it belongs to."""
        return (self.family, self.problem)

    @property
    def value(self) -> float:
        """Share of correct completions: the soft label."""
        return self.wins / self.draws


@dataclass(frozen=True)
class Labels:
    """The contents of a finished store.

    No state is in `labels` twice. `answers` are all complete answers that were drawn, from any
    state; their `draws` say how often.
    """

    identity: Identity
    settings: Mapping[str, Any]
    labels: tuple[Label, ...]
    answers: tuple[Label, ...] = ()

    @property
    def outcomes(self) -> tuple[Label, ...]:
        """The answers; for problems of version 1, the labels of complete states."""
        known = {answer.key for answer in self.answers}
        complete = (label for label in self.labels if label.state.done)
        return (*self.answers, *(label for label in complete if label.key not in known))


@dataclass(frozen=True)
class LabelCost:
    """Rollouts drawn, what was computed for them, and seconds of the clock."""

    rollouts: int = 0
    cost: Cost = Cost()
    seconds: float = 0.0

    def __add__(self, other: LabelCost) -> LabelCost:
        return LabelCost(
            self.rollouts + other.rollouts, self.cost + other.cost, self.seconds + other.seconds
        )

    def to_json(self) -> dict[str, Any]:
        """A flat record."""
        counts = {"rollouts": self.rollouts, **dataclasses.asdict(self.cost)}
        return {**counts, "seconds": round(self.seconds, 4)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> LabelCost:
        """Read `to_json` back."""
        cost = Cost(**{name.name: record[name.name] for name in dataclasses.fields(Cost)})
        return cls(record["rollouts"], cost, record["seconds"])


@dataclass(frozen=True)
class StoreHeader:
    """The model that labels are for, how they are made, and the number of problems."""

    identity: Identity
    settings: Mapping[str, Any]
    problems: int

    def to_json(self) -> dict[str, Any]:
        """The first line of a store."""
        return {"kind": KIND, "version": VERSION, **dataclasses.asdict(self)}


@dataclass
class StoreContents:
    """What a store holds: labels and answers by problem, their cost, and its complete bytes."""

    header: StoreHeader
    labels: dict[ProblemKey, tuple[Label, ...]] = field(default_factory=dict)
    answers: dict[ProblemKey, tuple[Label, ...]] = field(default_factory=dict)
    cost: LabelCost = LabelCost()
    size: int = 0
    ended: bool = False

    @property
    def count(self) -> int:
        """Number of labels."""
        return sum(map(len, self.labels.values()))

    def add(
        self,
        key: ProblemKey,
        labels: Sequence[Label],
        answers: Sequence[Label],
        cost: LabelCost,
    ) -> None:
        """Take the labels and answers of one problem."""
        self.labels[key] = tuple(labels)
        self.answers[key] = tuple(answers)
        self.cost += cost


class LabelStore:
    """A store that is being written, with its `contents` so far."""

    def __init__(self, file: RawIOBase, contents: StoreContents, path: Path) -> None:
        self.contents = contents
        self._file = file
        self._path = path

    def add(
        self,
        key: ProblemKey,
        labels: Sequence[Label],
        cost: LabelCost,
        answers: Sequence[Label] = (),
    ) -> None:
        """Append a problem's labels and answers; after the last problem, the end."""
        assert key not in self.contents.labels
        assert all(label.key == key for label in (*labels, *answers))
        self.contents.add(key, labels, answers, cost)
        end = {
            "kind": "problem",
            "family": key[0],
            "problem": key[1],
            "labels": len(labels),
            "answers": len(answers),
            **cost.to_json(),
        }
        lines = [_label_record("label", label) for label in labels]
        lines += [_label_record("answer", answer) for answer in answers]
        self._write(*lines, end)
        self.end_if_complete()

    def end_if_complete(self) -> None:
        """Write the last line if all problems are there."""
        contents = self.contents
        if contents.ended or len(contents.labels) != contents.header.problems:
            return
        contents.ended = True
        counts = {"problems": len(contents.labels), "labels": contents.count}
        self._write({"kind": "end", **counts, **contents.cost.to_json()})

    def _write(self, *records: Mapping[str, Any]) -> None:
        append_bytes(self._file, b"".join(map(json_line, records)), self._path)


@contextmanager
def open_store(path: Path, header: StoreHeader) -> Iterator[LabelStore]:
    """Create a store, or continue one where it stopped.

    Raises `OptionError` if the file is another run's, in use, or not a store.
    """
    with locked_file(path, "Wait for it, or choose another file.") as file:
        first_line = json_line(header.to_json())
        with open(path, "rb") as start:
            existing = start.read(len(first_line))
        if first_line.startswith(existing) and existing != first_line:
            os.truncate(path, 0)  # empty, or killed while its first line was written
            append_bytes(file, first_line, path)
        contents = read_store(path)
        _check_same_run(path, contents.header, header)
        if contents.size < path.stat().st_size:
            os.truncate(path, contents.size)
        store = LabelStore(file, contents, path)
        store.end_if_complete()
        yield store
        os.fsync(file.fileno())


def _check_same_run(path: Path, old: StoreHeader, new: StoreHeader) -> None:
    before, now = ({**header.settings, "problems": header.problems} for header in (old, new))
    check_settings(path, before, now, FREE_SETTINGS)
    if old.identity.difference(new.identity):
        raise OptionError(
            "this store was begun with another model or tokenizer",
            given=str(path),
            hint="Choose another file, or the same settings.",
        )


def load_labels(path: str | Path) -> Labels:
    """Read a finished store, its problems in the order of their tasks.

    Raises `OptionError` for an unfinished store and for other files.
    """
    contents = read_store(Path(path))
    header = contents.header
    if not contents.ended:
        raise OptionError(
            "this store of labels has no end: it was not finished or is cut off",
            given=f"{path}, {len(contents.labels)} of {header.problems} problems",
            hint="Run the same credit pav collect command again to continue it.",
        )
    order = {name: position for position, name in enumerate(header.settings.get("tasks", ()))}
    keys = sorted(contents.labels, key=lambda key: (order.get(key[0], len(order)), *key))
    labels = tuple(label for key in keys for label in contents.labels[key])
    answers = tuple(answer for key in keys for answer in contents.answers[key])
    return Labels(header.identity, header.settings, labels, answers)


def read_store(path: Path) -> StoreContents:
    """Read a store, finished or not.

    Raises `OptionError` for other files, and for broken lines with their number.
    """
    with os_errors("the store of labels cannot be read", path, "Check the path."):
        lines = path.read_bytes().splitlines(keepends=True)
    if not lines:
        raise OptionError(
            "the store of labels is empty",
            given=str(path),
            hint="Make one with credit pav collect.",
        )
    reader = _Reader(_read_header(path, lines[0]))
    size = reader.contents.size = len(lines[0])
    for number, line in enumerate(lines[1:], 2):
        size += len(line)
        if not line.endswith(b"\n"):
            break  # cut off by a kill
        try:
            if reader.add(json.loads(line)):
                reader.contents.size = size
        except (ValueError, LookupError, TypeError) as error:
            raise OptionError(
                f"line {number} of the store of labels is broken ({error})",
                given=str(path),
                hint="Remove its problem, or collect again.",
            ) from error
    return reader.contents


def _read_header(path: Path, line: bytes) -> StoreHeader:
    try:
        record = json.loads(line)
        if record["kind"] == KIND and record["version"] in READABLE_VERSIONS:
            identity = Identity(**record["identity"])
            return StoreHeader(identity, dict(record["settings"]), int(record["problems"]))
        kind = f"{record['kind']!r} of version {record['version']!r}"
    except (ValueError, LookupError, TypeError):
        kind = "something else"
    raise OptionError(
        f"not a store of labels but {kind}",
        given=str(path),
        hint="Give a file that credit pav collect wrote.",
    )


class _Reader:
    """Reads the lines of a store; labels wait for the line that ends their problem."""

    def __init__(self, header: StoreHeader) -> None:
        self.contents = StoreContents(header)
        self.pending: dict[str, list[Label]] = {"label": [], "answer": []}

    def add(self, record: Mapping[str, Any]) -> bool:
        """Take a line; whether everything up to it is complete. Raises `ValueError`."""
        kind = record["kind"]
        if self.contents.ended:
            raise ValueError("it comes after the end")
        if kind in self.pending:
            label = _read_label(record)
            if kind == "answer" and not label.state.done:
                raise ValueError("it is not a complete answer")
            self.pending[kind].append(label)
            return False
        if kind == "problem":
            self._end_problem(record)
        elif kind == "end" and not any(self.pending.values()):
            self._end_store(record)
        else:
            raise ValueError("it is not a label")
        return True

    def _end_problem(self, record: Mapping[str, Any]) -> None:
        key = (str(record["family"]), int(record["problem"]))
        counts = {"label": record["labels"], "answer": record.get("answers", 0)}
        for kind, labels in self.pending.items():
            if len(labels) != counts[kind] or any(label.key != key for label in labels):
                raise ValueError(f"{kind}s of its problem are missing")
            if key in self.contents.labels or len({label.state for label in labels}) < len(labels):
                raise ValueError("a problem or a state is there twice")
        labels, answers = self.pending.values()
        self.contents.add(key, labels, answers, LabelCost.from_json(record))
        self.pending = {"label": [], "answer": []}

    def _end_store(self, record: Mapping[str, Any]) -> None:
        counts = (len(self.contents.labels), self.contents.count)
        if (record["problems"], record["labels"]) != counts:
            raise ValueError("problems before it are missing")
        self.contents.ended = True


def _label_record(kind: str, label: Label) -> dict[str, Any]:
    return {
        "kind": kind,
        "family": label.family,
        "problem": label.problem,
        **vars(label.state),
        "wins": label.wins,
        "draws": label.draws,
    }


def _read_label(record: Mapping[str, Any]) -> Label:
    wins = _whole_number(record["wins"])
    draws = _whole_number(record["draws"])
    if not 0 <= wins <= draws or draws < 1:
        raise ValueError(f"the label {wins} of {draws} is outside [0, 1]")
    prompt, written, ends = (
        tuple(map(_whole_number, record[name])) for name in ("prompt", "written", "ends")
    )
    increasing = list(ends) == sorted(set(ends))
    inside = not ends or 0 <= ends[0] <= ends[-1] <= len(written)
    if not prompt or min(prompt + written) < 0 or not increasing or not inside:
        raise ValueError("it is not a state")
    state = PartialAnswer(prompt, written, ends, bool(record["done"]), str(record["reason"]))
    return Label(str(record["family"]), _whole_number(record["problem"]), state, wins, draws)


def _whole_number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a whole number")
    return value
