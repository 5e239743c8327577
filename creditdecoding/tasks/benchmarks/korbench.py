"""KOR-Bench: rules that only the prompt states, in five kinds (Ma et al., 2024). The answer stands
in double square brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from creditdecoding.errors import OptionError
from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import bracketed
from creditdecoding.tasks.benchmarks.files import Record, read

KINDS = ("cipher", "counterfactual", "logic", "operation", "puzzle")
_ROLE = "You are an intelligent assistant that reasons about a new rule.\n\n"


class _Files(NamedTuple):
    """The questions of a kind, and the rules that they name by id."""

    kind: str
    questions: Path
    rules: Path


def _read_records(paths: Sequence[Path]) -> Iterator[Record]:
    """Questions with their rules: `cipher.jsonl` and `cipher_rule.jsonl`, or `cipher/sample.jsonl`
    and `cipher/rule.jsonl`.
    """
    released = [files for path in paths for files in _find(path)]
    if not released:
        raise OptionError(
            "no questions of korbench",
            given=str(paths[0]),
            allowed=", ".join(KINDS),
            hint="Give the folder of the released files.",
        )
    for files in released:
        rules = {
            str(record.get("idx")): record["rule_content"]
            for _, record in read(files.rules)
            if record.get("rule_content")
        }
        for location, record in read(files.questions):
            rule_id = str(record.get("rule_id"))
            if rule_id not in rules:
                raise OptionError(
                    "no such rule",
                    given=f"rule_id {rule_id} at {location}",
                    allowed=files.rules.name,
                    hint="Give files of one release.",
                )
            yield location, {**record, "rule": rules[rule_id], "kind": files.kind}


def _find(path: Path) -> list[_Files]:
    """The files of a folder, or of one file of questions; none for a file of rules."""
    if not path.exists():
        raise OptionError(
            "no such file",
            given=str(path),
            hint="Check the path; without one the task loads from the hub.",
        )
    if path.is_dir():
        layouts = [(path / f"{kind}.jsonl", path / kind / "sample.jsonl") for kind in KINDS]
        existing = [file for layout in layouts for file in layout if file.exists()]
        return [files for file in existing for files in _find(file)]
    if path.name == "sample.jsonl":
        return [_Files(path.parent.name, path, path.with_name("rule.jsonl"))]
    if path.stem.endswith("rule"):
        return []
    return [_Files(path.stem, path, path.with_name(f"{path.stem}_rule.jsonl"))]


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    fields = {name: str(record[name]).strip() for name in ("question", "rule", "kind")}
    gold = bracketed(record["answer"])
    if gold is None:
        raise ValueError("the answer is not in [[ ]]")
    yield Question(fields, str(record["answer"]), gold)


def _value(text: str) -> Fraction | None:
    """The number that a text is: a LaTeX fraction, a decimal or a fraction."""
    latex = re.fullmatch(r"(-?)\\frac\{(-?\d+)\}\{(\d+)\}", text)
    try:
        if latex:
            return Fraction(f"{latex[1]}{latex[2]}/{latex[3]}".replace("--", ""))
        return Fraction(Decimal(text.rstrip(".")))
    except (InvalidOperation, ValueError, ZeroDivisionError, OverflowError):
        pass
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


def _plain(text: str) -> str:
    """A text without white space, LaTeX's spacing and trailing commas."""
    text = re.sub(r"\\left|\\right|\\[!,; ]|\$|\s|,+$", "", text)
    return text.replace("\\dfrac", "\\frac")


def _same(answer: str, gold: str) -> bool:
    """Equal except for white space, LaTeX's spacing and how a number is written. Alternatives
    joined by "or" may be in any order.
    """
    answer, gold = _plain(answer), _plain(gold)
    if answer.strip("\"'") == gold.strip("\"'"):
        return True
    if "or" in gold:
        answers, golds = answer.split("or"), gold.split("or")
        return len(answers) == len(golds) and all(
            any(_same(one, other) for one in answers) for other in golds
        )
    value = _value(answer)
    return value is not None and value == _value(gold)


def _parts(text: str) -> list[str]:
    """`a];[b` is two answers."""
    return re.split(r"\]\s*[;,]\s*\[", text)


def _is_correct(text: str, gold: str) -> bool:
    answer = bracketed(text)
    if answer is None:
        return False
    if _same(answer, gold):
        return True
    parts, gold_parts = _parts(answer), _parts(gold)
    return len(parts) == len(gold_parts) and all(map(_same, parts, gold_parts))


BENCHMARK = Benchmark(
    name="korbench",
    title="rules that only the prompt states",
    record_format="question, answer in [[ ]], rule_id; with a file of rules: idx, rule_content",
    repo="m-a-p/KOR-Bench",
    files=tuple(f"data/{kind}/{part}.jsonl" for part in ("rule", "sample") for kind in KINDS),
    templates={
        "rule": Template(_ROLE + "### Rule:\n{rule}\n\n### Question:\n{question}\n\n### Answer:"),
        "steps": Template(
            "{rule}\n\nApply this rule, not what you know, step by step.\n\n{question}"
        ),
        "plain": Template("{rule}\n\n{question}"),
    },
    questions=_questions,
    is_correct=_is_correct,
    read_records=_read_records,
    step_delimiter="\n",
)
