"""GSM8K: grade-school word problems (Cobbe et al., 2021). The answer is one number."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import number, numbers

_EXAMPLES = (
    "Question: A shelf holds 4 boxes of 6 pencils. Nora takes away 5 pencils. "
    "How many pencils are left?\n"
    "Answer: The shelf holds 4 * 6 = 24 pencils. After Nora takes 5, 24 - 5 = 19 are left.\n"
    "#### 19\n\n"
    "Question: Ivo walks 3 km a day from Monday to Friday and 7 km on Saturday. "
    "How far does he walk in these six days?\n"
    "Answer: From Monday to Friday he walks 5 * 3 = 15 km. With Saturday that is 15 + 7 = 22 km.\n"
    "#### 22\n\n"
)


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    answer = re.sub(r"<<.*?>>", "", record["answer"])
    values = numbers(answer.rpartition("####")[2]) if "####" in answer else []
    if not values:
        raise ValueError("the answer has no number after ####")
    yield Question({"question": record["question"].strip()}, answer, str(values[0]))


def _is_correct(text: str, gold: str) -> bool:
    return number(text) == Decimal(gold)


BENCHMARK = Benchmark(
    name="gsm8k",
    title="grade-school word problems",
    record_format="question, answer with #### NUMBER",
    repo="openai/gsm8k",
    files=("main/test-00000-of-00001.parquet",),
    templates={
        "boxed": Template(
            "{question}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
        ),
        "hashes": Template(
            "{question}\nThink step by step, "
            "then give the final answer as a plain number after ####."
        ),
        "plain": Template("{question}"),
        "base": Template(_EXAMPLES + "Question: {question}\nAnswer:", ("\nQuestion:",)),
    },
    questions=_questions,
    is_correct=_is_correct,
    step_delimiter="\n",
    extract_answer=number,
)
