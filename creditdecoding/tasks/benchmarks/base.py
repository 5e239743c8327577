"""What a benchmark is: where its released files are, how a record becomes a question, prompts as
data, and a judge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.tasks.base import Item, Task
from creditdecoding.tasks.benchmarks.files import Record, digest, fetch, read

_BROKEN = (KeyError, TypeError, ValueError, IndexError, AttributeError)


@dataclass(frozen=True)
class Question:
    """A record as text: what the prompt templates may name, a reference answer that the judge
    accepts, what it compares with.
    """

    fields: Mapping[str, str]
    answer: str
    gold: Any


@dataclass(frozen=True)
class Template:
    """A prompt with {fields} in it. An answer ends before the first of `stop` (for base models,
    which go on with the next question).
    """

    text: str
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark. The first template is the default; `member` says which files of a
    folder or archive are its test set.

    `judge` is right or wrong; `grade`, where there is one, is the usual partial credit (F1). `load`
    replaces reading file by file.
    `delimiter` ends a step of an answer, where answers are worked out; `answer` reads from a text
    what a vote among several counts.
    """

    name: str
    title: str
    layout: str
    repo: str
    files: tuple[str, ...]
    templates: Mapping[str, Template]
    questions: Callable[[Mapping[str, Any]], Iterable[Question]]
    judge: Callable[[str, Any], bool]
    grade: Callable[[str, Any], float] | None = None
    member: Callable[[str], bool] = lambda name: True
    load: Callable[[Sequence[Path]], Iterable[Record]] | None = None
    delimiter: str = ""
    answer: Callable[[str], object] | None = None


def family(benchmark: Benchmark, template: str = "", path: str = "") -> Task:
    """The benchmark's items from a local file or folder, or without one from the hub, in one of its
    templates. Raises `OptionError`.
    """
    name, chosen = benchmark.name, template or next(iter(benchmark.templates))
    if chosen not in benchmark.templates:
        raise unknown_name(f"template of {name}", chosen, benchmark.templates)
    if template and template != next(iter(benchmark.templates)):
        name = f"{name}@{template}"
    wording = benchmark.templates[chosen]
    paths = (
        [Path(path).expanduser()]
        if path
        else [fetch(benchmark.repo, file) for file in benchmark.files]
    )
    found = tuple(_items(benchmark, name, wording.text, paths))
    if not found:
        raise OptionError(
            f"no {benchmark.name} items",
            given=path or benchmark.repo,
            allowed=benchmark.layout,
            hint="Check the file.",
        )

    def cut(text: str) -> str:
        return text[
            : min((at for at in map(text.find, wording.stop) if at >= 0), default=len(text))
        ]

    def draw(rng: Random) -> Item:
        return rng.choice(found)

    grade, answer = benchmark.grade, benchmark.answer

    def voted(text: str) -> str | None:
        found = None if answer is None else answer(cut(text))
        return None if found is None else str(found)

    return Task(
        name,
        benchmark.title,
        draw,
        lambda text, item: benchmark.judge(cut(text), item.gold),
        partial_credit=None if grade is None else lambda text, item: grade(cut(text), item.gold),
        step_delimiter=benchmark.delimiter,
        fixed_items=found,
        metadata={
            "source": path or f"hub: {benchmark.repo}",
            "sha256": {file.name: digest(file) for file in paths if file.is_file()},
            "items": len(found),
            "template": chosen,
            **dataclasses.asdict(wording),
        },
        extract_answer=None if answer is None else voted,
    )


def _items(benchmark: Benchmark, name: str, template: str, paths: Sequence[Path]) -> Iterator[Item]:
    records = (
        benchmark.load(paths)
        if benchmark.load is not None
        else (record for path in paths for record in read(path, benchmark.member))
    )
    for where, record in records:
        try:
            for index, question in enumerate(benchmark.questions(record)):
                yield Item(
                    name,
                    template.format(**question.fields),
                    question.answer,
                    question.gold,
                    (where, index),
                )
        except _BROKEN as error:
            reason = (
                f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
            )
            what = f"not a record of {benchmark.name} ({reason[:120]})"
            raise OptionError(
                what, given=where, allowed=benchmark.layout, hint="Give a file as it was released."
            ) from error
