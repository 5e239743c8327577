"""KOR-Bench: rules that only the prompt states, in five kinds (Ma et al., 2024). The answer stands
in double square brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any

from creditdecoding.errors import OptionError
from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import bracketed
from creditdecoding.tasks.benchmarks.files import Record, read

KINDS = ("cipher", "counterfactual", "logic", "operation", "puzzle")
_WHO = "You are an intelligent assistant that reasons about a new rule.\n\n"


def _load(paths: Sequence[Path]) -> Iterator[Record]:
    """Questions with their rules: `cipher.jsonl` and `cipher_rule.jsonl`, or `cipher/sample.jsonl`
    and `cipher/rule.jsonl`.
    """
    pairs = [pair for path in paths for pair in _pairs(path)]
    if not pairs:
        raise OptionError(
            "no questions of korbench",
            given=str(paths[0]),
            allowed=", ".join(KINDS),
            hint="Give the folder of the released files.",
        )
    for kind, sample, rule in pairs:
        rules = {
            str(record.get("idx")): record["rule_content"]
            for _, record in read(rule)
            if record.get("rule_content")
        }
        for where, record in read(sample):
            number = str(record.get("rule_id"))
            if number not in rules:
                raise OptionError(
                    "no such rule",
                    given=f"rule_id {number} at {where}",
                    allowed=rule.name,
                    hint="Give files of one release.",
                )
            yield where, {**record, "rule": rules[number], "kind": kind}


def _pairs(path: Path) -> list[tuple[str, Path, Path]]:
    if not path.exists():
        raise OptionError(
            "no such file",
            given=str(path),
            hint="Check the path; without one the task loads from the hub.",
        )
    if path.is_dir():
        return [
            pair
            for kind in KINDS
            for file in (path / f"{kind}.jsonl", path / kind / "sample.jsonl")
            if file.exists()
            for pair in _pairs(file)
        ]
    if path.name == "sample.jsonl":
        return [(path.parent.name, path, path.with_name("rule.jsonl"))]
    return (
        []
        if path.stem.endswith(("_rule", "rule"))
        else [(path.stem, path, path.with_name(f"{path.stem}_rule.jsonl"))]
    )


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    fields = {name: str(record[name]).strip() for name in ("question", "rule", "kind")}
    gold = bracketed(record["answer"])
    if gold is None:
        raise ValueError("the answer is not in [[ ]]")
    yield Question(fields, str(record["answer"]), gold)


def _value(text: str) -> Fraction | None:
    match = re.fullmatch(r"(-?)\\frac\{(-?\d+)\}\{(\d+)\}", text)
    try:
        return (
            Fraction(f"{match[1]}{match[2]}/{match[3]}".replace("--", ""))
            if match
            else Fraction(Decimal(text.rstrip(".")))
        )
    except (InvalidOperation, ValueError, ZeroDivisionError, OverflowError):
        pass
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


def _same(given: str, wanted: str) -> bool:
    """Equal but for white space, LaTeX's spacing and how a number is written; alternatives joined
    by "or" in any order.
    """
    first, second = (
        re.sub(r"\\left|\\right|\\[!,; ]|\$|\s|,+$", "", text).replace("\\dfrac", "\\frac")
        for text in (given, wanted)
    )
    if first.strip("\"'") == second.strip("\"'"):
        return True
    if "or" in second:
        parts = [text.split("or") for text in (first, second)]
        return len(parts[0]) == len(parts[1]) and all(
            any(_same(a, b) for a in parts[0]) for b in parts[1]
        )
    values = _value(first), _value(second)
    return values[0] is not None and values[0] == values[1]


def _parts(text: str) -> list[str]:
    """`a];[b` is two answers."""
    return re.split(r"\]\s*[;,]\s*\[", text)


def _judge(text: str, gold: str) -> bool:
    found = bracketed(text)
    if found is None:
        return False
    given, wanted = _parts(found), _parts(gold)
    return _same(found, gold) or (
        len(given) == len(wanted) and all(_same(a, b) for a, b in zip(given, wanted))
    )


BENCHMARK = Benchmark(
    "korbench",
    "rules that only the prompt states",
    "question, answer in [[ ]], rule_id; beside it the rules: idx, rule_content",
    "m-a-p/KOR-Bench",
    tuple(f"data/{kind}/{part}.jsonl" for part in ("rule", "sample") for kind in KINDS),
    {
        "rule": Template(_WHO + "### Rule:\n{rule}\n\n### Question:\n{question}\n\n### Answer:"),
        "steps": Template(
            "{rule}\n\nApply this rule, not what you know, step by step.\n\n{question}"
        ),
        "plain": Template("{rule}\n\n{question}"),
    },
    _questions,
    _judge,
    load=_load,
    delimiter="\n",
)
