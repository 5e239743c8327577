"""Quality of open text without a gold answer.

- Mean negative log-likelihood (nats) of an answer's tokens under the base, an autoregressive model,
  given the question in the base's chat template. Dull text scores well too, so it stands beside:
- distinct n-grams: the share of different ones among an answer's n-grams of words (arXiv
  1510.03055, here answer by answer, so that it does not depend on their number);
- doubled words: how often a word follows itself, which models that write several tokens at a time
  do;
- agreement with standard decoding (one token a pass): the share of common words in order
  (difflib's ratio) and the share of equal answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from os import fspath
from pathlib import Path
from typing import Any

import numpy as np

from creditdecoding.bases.autoregressive_lm import AutoregressiveLM, load_base
from creditdecoding.bootstrap import (
    FloatArray,
    percentile_interval,
    resampled_means,
    stratified_mean,
)
from creditdecoding.checkpoint import find_parts, resolve_checkpoint
from creditdecoding.config import EngineConfig
from creditdecoding.eval.evaluate import ScoredAnswer
from creditdecoding.lm import LM
from creditdecoding.models import is_base
from creditdecoding.models.autoregressive import log_likelihoods
from creditdecoding.options import StrPath

ROWS = 16
"""Answers in a pass of the base."""

NGRAMS = (2, 3)
TEXT_MEASURES = ("nfe", "distinct_2", "distinct_3", "doubled")
STANDARD_MEASURES = ("agreement", "equal")
COLUMNS = ("nll", "tokens", *TEXT_MEASURES, *STANDARD_MEASURES)

Row = tuple[tuple[int, ...], int]
"""Ids of a prompt with its answer, and where the answer starts."""
Likelihoods = dict[Row, tuple[float, int]]
"""The summed negative log-likelihood and the number of tokens of answers under one base. Many rules
give equal answers, so that most are measured once.
"""


@dataclass(frozen=True)
class OpenAnswer:
    """An answer to a prompt: its task, and whether it came to its end. `nfe` are the passes that it
    took; `standard` is the answer of standard decoding, if known.
    """

    task: str
    prompt: str
    text: str
    ended: bool
    nfe: int
    standard: str | None = None


def judge_engine(engine: EngineConfig) -> EngineConfig:
    """The options with which a base is loaded beside a model."""
    names = ("device", "dtype", "threads", "offline", "cache_dir")
    return EngineConfig(**{name: getattr(engine, name) for name in names})


def known_base(model: str, engine: EngineConfig) -> str | None:
    """The folder of the autoregressive base that an adapter names; None for other checkpoints.
    Raises `CheckpointError`.
    """
    folder = resolve_checkpoint(model, engine.revision, engine.offline, engine.cache_dir)
    parts = find_parts(folder, engine.offline, engine.cache_dir)
    return str(parts.weights) if parts.is_adapter and is_base(parts.weights) else None


def judge_of(lm: LM, base: StrPath | AutoregressiveLM | None) -> AutoregressiveLM | None:
    """The base to measure with: the one that is given, loaded beside `lm` if it is a name, else
    that of an adapter. None if there is none. Raises `CheckpointError`.
    """
    if base is None and lm.base is not None and is_base(Path(lm.base)):
        base = lm.base
    if base is None or isinstance(base, AutoregressiveLM):
        return base
    return load_base(fspath(base), EngineConfig(device=str(lm.device)))


def text_quality(
    answers: Sequence[OpenAnswer],
    base: AutoregressiveLM | None,
    raw: bool = False,
    known: Likelihoods | None = None,
) -> dict[str, Any]:
    """Means over tasks of the means over answers, with 95% intervals; `nll` is by token, `nfe` are
    passes.

    Without a base there is no `nll`; answers that are `too_long` for it (or empty) have no part in
    it. `raw`: the prompts are plain text without a chat template. Likelihoods that are `known` are
    not computed again, and new ones are added.
    """
    values = _values(answers, base, raw, {} if known is None else known)
    tasks = list(dict.fromkeys(answer.task for answer in answers))
    strata = [tasks.index(answer.task) for answer in answers]
    means = stratified_mean(values, strata)
    draws = resampled_means(values, strata)
    quality: dict[str, Any] = {"answers": len(answers)}
    if base is not None:
        quality |= {"nll": _nll(means, draws), "too_long": int((values[:, 1] == 0).sum())}
    has_standard = all(answer.standard is not None for answer in answers)
    for column, name in enumerate(COLUMNS):
        if name in TEXT_MEASURES or (has_standard and name in STANDARD_MEASURES):
            quality[name] = percentile_interval(means[column], draws[:, column]).rounded(4)
    return quality


def _values(
    answers: Sequence[OpenAnswer],
    base: AutoregressiveLM | None,
    raw: bool,
    known: Likelihoods,
) -> FloatArray:
    """All measures [answers, columns]; the likelihood without a base means nothing."""
    likelihoods = [(0.0, 1)] * len(answers)
    if base is not None:
        likelihoods = _likelihoods(answers, base, raw, known)
    rows = [(*pair, *_measures(answer)) for answer, pair in zip(answers, likelihoods, strict=True)]
    return np.array(rows, dtype=float).reshape(len(rows), len(COLUMNS))


def _nll(means: FloatArray, draws: FloatArray) -> dict[str, float]:
    """Negative log-likelihood a token, from the sums and counts of answers."""
    value = means[0] / max(means[1], 1e-9)
    return percentile_interval(value, draws[:, 0] / np.maximum(draws[:, 1], 1e-9)).rounded(4)


def _measures(answer: OpenAnswer) -> Iterator[float]:
    """What needs no base: passes, and what is read off the text alone."""
    yield answer.nfe
    words = split_words(answer.text)
    for size in NGRAMS:
        yield distinct(words, size)
    yield doubled_words(words)
    yield agreement(answer.text, answer.standard or "")
    yield float(answer.text == answer.standard)


def agreement(text: str, standard: str) -> float:
    """The share of common words in order, 0 to 1 (difflib's ratio)."""
    words, standard_words = split_words(text), split_words(standard)
    return SequenceMatcher(None, words, standard_words, autojunk=False).ratio()


def split_words(text: str) -> list[str]:
    """Words in lower case; a mark that is no letter or digit is a word of its own."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def distinct(words: Sequence[str], size: int) -> float:
    """The share of different n-grams of `size` words; 1 for a text that has none."""
    ngrams = [tuple(words[first : first + size]) for first in range(len(words) - size + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 1.0


def doubled_words(words: Sequence[str]) -> int:
    """How often a word (letters or digits) follows itself."""
    return sum(a == b and a[0].isalnum() for a, b in pairwise(words))


def _likelihoods(
    answers: Sequence[OpenAnswer],
    base: AutoregressiveLM,
    raw: bool,
    known: Likelihoods,
) -> list[tuple[float, int]]:
    """Summed negative log-likelihood and number of tokens of each answer; 0 tokens of one that is
    too long for the base. Adds to `known`.
    """
    rows = [_row(answer, base, raw) for answer in answers]
    new_rows = sorted(set(rows) - known.keys(), key=lambda row: (len(row[0]), row))
    for first in range(0, len(new_rows), ROWS):
        part = new_rows[first : first + ROWS]
        ids, starts = zip(*part)
        for row, score in zip(part, log_likelihoods(base.model, ids, starts)):
            known[row] = (-float(score.double().sum()), len(score))
    return [known[row] for row in rows]


def _row(answer: OpenAnswer, base: AutoregressiveLM, raw: bool) -> Row:
    """Ids of a prompt with its answer, and where the answer starts; a row without an answer if
    both do not fit into the base.
    """
    prompt, ids = _answer_ids(answer, base, raw)
    fits = len(prompt) + len(ids) <= base.model.config.max_length
    return ((*prompt, *ids), len(prompt)) if fits else (tuple(prompt[:1]), 1)


def _answer_ids(
    answer: OpenAnswer, base: AutoregressiveLM, raw: bool
) -> tuple[list[int], list[int]]:
    """Ids of a prompt and of its answer, with the end token if it came to its end."""
    tokenizer = base.tokenizer
    if raw or not tokenizer.backend.chat_template:
        prompt = tokenizer.encode_plain(answer.prompt)
    else:
        prompt = tokenizer.encode_chat([{"role": "user", "content": answer.prompt}])
    ids = tokenizer.encode_plain(answer.text)
    if answer.ended and tokenizer.stop_ids:
        end = tokenizer.backend.eos_token_id
        ids.append(tokenizer.stop_ids[-1] if end is None else end)
    return prompt or [tokenizer.stop_ids[-1] if tokenizer.stop_ids else 0], ids


def eval_quality(
    samples: Sequence[ScoredAnswer],
    standard: Sequence[str] | None,
    base: AutoregressiveLM | None,
    raw: bool = False,
) -> dict[str, Any]:
    """`text_quality` of the answers of an evaluation; `standard` are those of standard decoding."""
    texts: Sequence[str | None] = [None] * len(samples) if standard is None else standard
    answers = [
        OpenAnswer(
            task=sample.item.task,
            prompt=sample.item.prompt,
            text=sample.completion.text,
            ended=sample.completion.finish_reason == "stop",
            nfe=sample.completion.nfe,
            standard=text,
        )
        for sample, text in zip(samples, texts, strict=True)
    ]
    return text_quality(answers, base, raw)


def decoder_quality(
    records: Sequence[Mapping[str, Any]],
    prompts: Mapping[tuple[str, str, int], str],
    reference: str,
    base: AutoregressiveLM | None,
    raw: bool = False,
) -> dict[str, Any]:
    """`text_quality` of each decoder on the test items of a comparison.

    `prompts` has the prompt of each (template, task, item); agreement is with the decoder
    `reference`.
    """
    tested = [record for record in records if record["split"] == "test"]
    standard = {
        _answer_key(record): record["text"] for record in tested if record["decoder"] == reference
    }
    answers: dict[str, list[OpenAnswer]] = {}
    for record in tested:
        key = _answer_key(record)
        answer = OpenAnswer(
            task=record["family"],
            prompt=prompts[key],
            text=record["text"],
            ended=record["finish"] == "stop",
            nfe=record["nfe"],
            standard=standard.get(key),
        )
        answers.setdefault(record["decoder"], []).append(answer)
    known: Likelihoods = {}
    return {decoder: text_quality(listed, base, raw, known) for decoder, listed in answers.items()}


def _answer_key(record: Mapping[str, Any]) -> tuple[str, str, int]:
    return record["template"], record["family"], record["item"]
