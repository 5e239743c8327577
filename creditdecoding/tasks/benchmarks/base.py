"""What a benchmark is: where its released files are, how a record becomes questions, prompts as
data, and a scorer.
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
from creditdecoding.tasks.benchmarks.files import Record, data_files, digest, fetch, read

_RECORD_ERRORS = (KeyError, TypeError, ValueError, IndexError, AttributeError)


@dataclass(frozen=True)
class Question:
    """A record as text: the fields that prompt templates may name, a reference answer that the
    scorer accepts, and what the scorer compares with.
    """

    fields: Mapping[str, str]
    answer: str
    gold: Any


@dataclass(frozen=True)
class Template:
    """A prompt with {fields} in it. An answer ends before the first of `stop` (for base models,
    which continue with the next question).
    """

    text: str
    stop: tuple[str, ...] = ()

    def cut(self, answer: str) -> str:
        """The answer up to the first stop string."""
        ends = [answer.find(stop) for stop in self.stop if stop in answer]
        return answer[: min(ends, default=len(answer))]


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark. The first template is the default.

    `record_format` describes a record in error messages. `questions` turns a record into questions.
    `is_correct` compares an answer with `gold`; `partial_credit`, if there is one, is the usual F1.
    `is_test_file` picks the test set from the files of a folder or archive. `read_records` replaces
    reading file by file. `step_delimiter` ends a step of an answer, if answers are worked out;
    `extract_answer` reads from an answer what a vote among several counts. With `task_a_file` each
    file of a folder is a task of its own, called NAME/FOLDER/FILE. Without `files` there is nothing
    on the hub.
    """

    name: str
    title: str
    record_format: str
    repo: str
    files: tuple[str, ...]
    templates: Mapping[str, Template]
    questions: Callable[[Mapping[str, Any]], Iterable[Question]]
    is_correct: Callable[[str, Any], bool]
    partial_credit: Callable[[str, Any], float] | None = None
    is_test_file: Callable[[str], bool] = lambda name: True
    read_records: Callable[[Sequence[Path]], Iterable[Record]] | None = None
    step_delimiter: str = ""
    extract_answer: Callable[[str], object] | None = None
    task_a_file: bool = False


def as_tasks(benchmark: Benchmark, template_name: str = "", path: str = "") -> list[Task]:
    """The benchmark as one task, or as one task a file. Raises `OptionError`."""
    if not benchmark.task_a_file or not path:
        return [as_task(benchmark, template_name, path)]
    root = Path(path).expanduser()
    files = data_files(root, benchmark.is_test_file) if root.is_dir() else [root]
    named = [
        (f"{benchmark.name}/{file.parent.name}/{file.name.partition('.')[0]}", file)
        for file in files
    ]
    return [
        as_task(dataclasses.replace(benchmark, name=name), template_name, str(file))
        for name, file in named
    ]


def as_task(benchmark: Benchmark, template_name: str = "", path: str = "") -> Task:
    """The benchmark's items from a local file or folder, or without one from the hub, in one of its
    templates. Raises `OptionError`.
    """
    default = next(iter(benchmark.templates))
    template_name = template_name or default
    if template_name not in benchmark.templates:
        raise unknown_name(f"template of {benchmark.name}", template_name, benchmark.templates)
    template = benchmark.templates[template_name]
    is_default = template_name == default
    name = benchmark.name if is_default else f"{benchmark.name}@{template_name}"
    paths = _paths(benchmark, path)
    items = _items(benchmark, name, template.text, paths)

    def draw(rng: Random) -> Item:
        return rng.choice(items)

    def score(text: str, item: Item) -> bool:
        return benchmark.is_correct(template.cut(text), item.gold)

    metadata = {
        "source": path or f"hub: {benchmark.repo}",
        "sha256": {file.name: digest(file) for file in paths if file.is_file()},
        "items": len(items),
        "template": template_name,
        **dataclasses.asdict(template),
    }
    return Task(
        name=name,
        title=benchmark.title,
        make=draw,
        score=score,
        step_delimiter=benchmark.step_delimiter,
        partial_credit=_partial_credit(benchmark, template),
        fixed_items=items,
        metadata=metadata,
        extract_answer=_extractor(benchmark, template),
    )


def _partial_credit(
    benchmark: Benchmark, template: Template
) -> Callable[[str, Item], float] | None:
    """The benchmark's partial credit for an item, if there is one."""
    credit = benchmark.partial_credit
    if credit is None:
        return None
    return lambda text, item: credit(template.cut(text), item.gold)


def _extractor(benchmark: Benchmark, template: Template) -> Callable[[str], str | None] | None:
    """What a vote counts, as text, if the benchmark says it."""
    extract = benchmark.extract_answer
    if extract is None:
        return None

    def extract_text(text: str) -> str | None:
        answer = extract(template.cut(text))
        return None if answer is None else str(answer)

    return extract_text


def _paths(benchmark: Benchmark, path: str) -> list[Path]:
    if path:
        return [Path(path).expanduser()]
    if not benchmark.files:
        raise OptionError(
            f"{benchmark.name} is not on the hub",
            given=benchmark.name,
            allowed=f"{benchmark.name}=PATH",
            hint="Give the released file or folder; docs/guide/evaluating.md says where it is.",
        )
    return [fetch(benchmark.repo, file) for file in benchmark.files]


def _items(
    benchmark: Benchmark, name: str, template: str, paths: Sequence[Path]
) -> tuple[Item, ...]:
    """All items of the files. Raises `OptionError`."""
    items = tuple(_read_items(benchmark, name, template, paths))
    if not items:
        raise OptionError(
            f"no {benchmark.name} items",
            given=", ".join(map(str, paths)),
            allowed=benchmark.record_format,
            hint="Check the file.",
        )
    return items


def _read_items(
    benchmark: Benchmark, name: str, template: str, paths: Sequence[Path]
) -> Iterator[Item]:
    for location, record in _records(benchmark, paths):
        try:
            for index, question in enumerate(benchmark.questions(record)):
                prompt = template.format(**question.fields)
                yield Item(name, prompt, question.answer, question.gold, (location, index))
        except _RECORD_ERRORS as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, KeyError):
                reason = f"no {error}"
            raise OptionError(
                f"not a record of {benchmark.name} ({reason[:120]})",
                given=location,
                allowed=benchmark.record_format,
                hint="Give a file as it was released.",
            ) from error


def _records(benchmark: Benchmark, paths: Sequence[Path]) -> Iterable[Record]:
    if benchmark.read_records is not None:
        return benchmark.read_records(paths)
    return (record for path in paths for record in read(path, benchmark.is_test_file))
