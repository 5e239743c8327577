"""Conversations that a base writes itself: a sampled question and the greedy answer to it.

The template up to a user's turn and the first words of a question (`OPENINGS`) are all that the
base is given, so questions are what it was tuned on, of many kinds. An adapted model learns from
them without forgetting how the base answers.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from creditdecoding.bases.autoregressive_lm import AutoregressiveLM
from creditdecoding.errors import CheckpointError
from creditdecoding.models.autoregressive import NextToken, sample
from creditdecoding.run_dir import open_journal, write_atomically
from creditdecoding.text.tokenizer import end_of_turn_ids, render_chat

BATCH = 64
QUESTION_TOKENS = 60
ANSWER_TOKENS = 110
MOST_BATCHES_FOR_NOTHING = 4
QUESTIONS = NextToken(temperature=0.9, top_p=0.95)
USER_TEXT = "QUESTION"
OPENINGS = (
    "",
    "What",
    "How",
    "Why",
    "Who",
    "Where",
    "When",
    "Which",
    "Can you",
    "Tell me",
    "Give me",
    "Write",
    "Explain",
    "Describe",
    "Name",
    "Is",
)
"""First words of questions, in turn; after "" the base begins as it likes."""
_SENTENCE_END = re.compile(r"(?<!\d)[.!?](?=\s|$)")

Pair = tuple[str, str]
"""A question and its answer."""


def write_self_data(
    base: AutoregressiveLM,
    count: int,
    seed: int,
    folder: Path,
    start: Callable[[int, int], Callable[[], None]],
) -> Path:
    """The file of `count` conversations in `folder`, written batch by batch: a run that was killed
    goes on, and a larger count adds to what is there. `start` is as in `open_progress`.

    Raises `CheckpointError` if the base writes nothing that is new.
    """
    settings = {"base": str(base.folder), "seed": seed}
    path = folder / "conversations.jsonl"
    with open_journal(folder, settings, key=("batch",)) as journal:
        batches = [record["pairs"] for record in journal.read().values()]
        pairs = {question: answer for batch in batches for question, answer in batch}
        tick = start(min(count, len(pairs)), count)
        with journal.writer() as append:
            while len(pairs) < count:
                known = len(pairs)
                batches.append(_write_batch(base, f"{seed}/{len(batches)}"))
                append({"batch": len(batches) - 1, "pairs": batches[-1]})
                pairs |= dict(batches[-1])
                _check_not_silent(batches, known, len(pairs))
                for _ in range(min(count, len(pairs)) - known):
                    tick()
        write_atomically(path, "".join(map(_line, list(pairs.items())[:count])))
    return path


def _check_not_silent(
    batches: Sequence[object],
    before: int,
    after: int,
) -> None:
    """Refuse a base from whose many batches hardly anything new came."""
    if before == after and len(batches) >= MOST_BATCHES_FOR_NOTHING:
        raise CheckpointError(
            "the base writes no more questions that are new, finished and answered",
            given=f"{after} in {len(batches)} batches of {BATCH}",
            hint="Ask for fewer, or use a base that was tuned to chat.",
        )


def _line(pair: Pair) -> str:
    question, answer = pair
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def _write_batch(base: AutoregressiveLM, seed: str) -> list[Pair]:
    """The pairs of one batch that are finished and not empty."""
    tokenizer = base.tokenizer
    stop_ids = {*tokenizer.stop_ids, *end_of_turn_ids(tokenizer.backend)}
    questions = _write_questions(base, seed, stop_ids)
    prompts = [tokenizer.encode_chat([{"role": "user", "content": q}]) for q in questions]
    if not prompts:
        return []
    replies = sample(base.model, prompts, ANSWER_TOKENS, stop_ids)
    answers = [_whole_sentences(text, done) for text, done in _texts(base, replies, stop_ids)]
    pairs = zip(questions, answers, strict=True)
    return [(question, answer) for question, answer in pairs if answer]


def _write_questions(base: AutoregressiveLM, seed: str, stop_ids: set[int]) -> list[str]:
    """A batch of questions, of which some may not have come to their end and are left out."""
    tokenizer = base.tokenizer
    generator = torch.Generator(base.device).manual_seed(_number(seed))
    before = _before_question(tokenizer.backend)
    openings = list(itertools.islice(itertools.cycle(OPENINGS), BATCH))
    starts = [tokenizer.encode(before + opening) for opening in openings]
    rows = sample(base.model, starts, QUESTION_TOKENS, stop_ids, QUESTIONS, generator)
    questions = [
        _question(base, start, opening, ids)
        for start, opening, ids in zip(starts, openings, rows)
        if ids and ids[-1] in stop_ids
    ]
    return [question for question in questions if question]


def _number(seed: str) -> int:
    return int.from_bytes(seed.encode(), "big") % 2**62


def _before_question(backend: Any) -> str:
    """The template's text before what a user writes."""
    text = render_chat(backend, [{"role": "user", "content": USER_TEXT}])
    return text.partition(USER_TEXT)[0]


def _question(
    base: AutoregressiveLM, start: Sequence[int], opening: str, ids: Sequence[int]
) -> str:
    """The text of a question after its opening, decoded with what is before it: there a tokenizer
    may leave out a space at the beginning.
    """
    decode = base.tokenizer.decode
    length = len(decode(start)) - len(opening)
    return decode([*start, *ids])[length:].strip()


def _texts(
    base: AutoregressiveLM,
    rows: Sequence[Sequence[int]],
    stop_ids: set[int],
) -> Iterator[tuple[str, bool]]:
    """The text of each row and whether it ended by itself."""
    for ids in rows:
        yield base.tokenizer.decode(ids).strip(), bool(ids) and ids[-1] in stop_ids


def _whole_sentences(text: str, done: bool) -> str:
    """An answer, without a last sentence that has no end."""
    if done:
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""
