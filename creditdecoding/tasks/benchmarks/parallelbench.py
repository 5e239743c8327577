"""ParallelBench: lists, latin squares, sudokus and sentences whose tokens depend on each other
(arXiv 2510.04767). Each released file is a task of its own.

Prompts and metrics are those of the `task_config.yaml` beside a file. Whether a sentence is
grammatical, which takes a language tool, is not checked: `words_to_sentence` is an upper bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from creditdecoding.errors import OptionError
from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.files import Record, read

_CONFIG = "task_config.yaml"


def _read_records(paths: Sequence[Path]) -> Iterator[Record]:
    """The rows of a file, each with its task's prompt and metric."""
    for path in paths:
        config = _config(path)
        for location, record in read(path):
            yield location, {**record, "prompt": config["prompt"], "metric": config["metric"]}


def _config(path: Path) -> Mapping[str, str]:
    """Prompt and metric of a file. Raises `OptionError`."""
    name = f"{path.parent.name}/{path.name.partition('.')[0]}"
    file = path.parent / _CONFIG
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))[name]
        prompt, metric = str(config["prompt"]), str(config["metric"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        raise OptionError(
            f"no prompt and metric of {name}",
            given=str(file),
            allowed=f"{_CONFIG} with {name}: prompt, metric",
            hint="Give a file in its released folder.",
        ) from error
    if metric not in _METRICS:
        raise OptionError(
            "a metric that is not implemented",
            given=f"{metric} of {name}",
            allowed=", ".join(_METRICS),
            hint="Leave this file out.",
        )
    return {"prompt": prompt, "metric": metric}


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    shown = [
        f"{_prompt(record, example['input'])}\n{_reference(example['answer'])}\n\n"
        for example in record["input"].get("icl_examples", ())
    ]
    fields = {"question": _prompt(record, record["input"]), "examples": "".join(shown)}
    answer = record["answer"]
    yield Question(fields, _reference(answer), (record["metric"], answer))


def _prompt(record: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    filled: str = record["prompt"].format(**values)
    return filled.replace("\\n", "\n").strip()


def _reference(answer: Any) -> str:
    """The answer, or an example of right ones."""
    if isinstance(answer, str):
        return answer
    if "example" in answer:
        return str(answer["example"])
    return f"{' '.join(answer['words'])}."


def _list(text: str) -> list[str]:
    """The last bracketed list of a text, or without brackets what commas separate."""
    inside = text.rpartition("[")[2].partition("]")[0]
    return [part.strip('" ') for part in inside.split(",") if part.strip()]


def _is_equal(text: str, answer: str) -> bool:
    return _list(text) == _list(answer)


def _is_shuffled(text: str, answer: Mapping[str, Any]) -> bool:
    names = _list(text)
    return sorted(names) == sorted(answer["input"]) and names != answer["input"]


def _is_inserted(text: str, answer: Mapping[str, Any]) -> bool:
    names, new = _list(text), answer["word"]
    return names.count(new) == 1 and [name for name in names if name != new] == answer["input"]


def _is_removed(text: str, answer: Mapping[str, Any]) -> bool:
    before = answer["input"]
    return _list(text) in [before[:index] + before[index + 1 :] for index in range(len(before))]


def _is_replaced(text: str, answer: Mapping[str, Any]) -> bool:
    before, new = answer["input"], answer["word"]
    results = [[*before[:index], new, *before[index + 1 :]] for index in range(len(before))]
    return _list(text) in results


def _is_latin_square(text: str, answer: Mapping[str, Any]) -> bool:
    symbols = set(answer["symbols"])
    lines = [[cell.strip() for cell in line.split(",")] for line in text.split("\n")]
    rows = [row for row in lines if len(row) == len(symbols) and set(row) == symbols]
    square = rows[: len(symbols)]
    columns = zip(*square)
    return len(square) == len(symbols) and all(set(column) == symbols for column in columns)


def _is_sudoku(text: str, answer: str) -> bool:
    plain = [re.sub(r"[ ,]", "", line) for line in text.split("\n")]
    rows = ["".join(re.findall(r"\d", line)) for line in plain]
    return [row for row in rows if len(row) == 4] == answer.split("\n")


def _has_words(text: str, answer: Mapping[str, Any]) -> bool:
    return all(word in text for word in answer["words"])


_METRICS: dict[str, Callable[[str, Any], bool]] = {
    "list_match_score": _is_equal,
    "list_shuffle_score": _is_shuffled,
    "list_random_insert_score": _is_inserted,
    "list_random_remove_score": _is_removed,
    "list_random_replace_score": _is_replaced,
    "latin_square_score": _is_latin_square,
    "sudoku_score": _is_sudoku,
    "sentence_to_words_score": _has_words,
}


def _is_correct(text: str, gold: tuple[str, Any]) -> bool:
    metric, answer = gold
    return _METRICS[metric](text, answer)


BENCHMARK = Benchmark(
    name="parallelbench",
    title="tokens that depend on each other",
    record_format="input, answer; beside the file task_config.yaml with prompt and metric",
    repo="",
    files=(),
    templates={
        "shots": Template("{examples}{question}"),
        "plain": Template("{question}"),
        "marked": Template("{examples}Now yours:\n{question}"),
    },
    questions=_questions,
    is_correct=_is_correct,
    read_records=_read_records,
    task_a_file=True,
)
