"""Small adaptations of tiny bases."""

from __future__ import annotations

import json
from pathlib import Path

from creditdecoding.tasks import custom
from creditdecoding.train.adapt import AdaptRun
from creditdecoding.train.adapt_data import load_sources
from creditdecoding.train.adapt_options import AdaptConfig
from creditdecoding.train.bases import read_base
from tests.helpers.tiny_bases import write_base

QUESTIONS = (
    ("What is the capital of Peru?", "The capital of Peru is Lima."),
    ("What is the language of Japan?", "The language of Japan is Japanese."),
    ("How many apples does Tom have?", "Tom has 12 apples."),
)
SMALL = {
    "buckets": "136:32,160:32",
    "batch_positions": 640,
    "rank": 4,
    "lr": 0.02,
    "compile": False,
    "save_every": 2,
    "eval_every": 4,
}


def write_conversations(path: Path) -> Path:
    """Conversations about the tokenizer's sentences, each with a number of its own."""
    lines = []
    for number in range(30):
        question, answer = QUESTIONS[number % 3]
        messages = [
            {"role": "user", "content": f"{number} {question}"},
            {"role": "assistant", "content": answer},
        ]
        lines.append(json.dumps({"messages": messages}) + "\n")
    path.write_text("".join(lines))
    return path


def write_held_out_question(folder: Path) -> Path:
    """A file of one question, of a name by which it is not trained on."""
    for number in range(100):
        path = folder / f"{number}.jsonl"
        path.write_text('{"prompt": "Who is Tom?", "answer": "A boy."}\n')
        (item,) = custom.load(str(path)).fixed_items or ()
        if item.split != "train":
            return path
    raise AssertionError("all files are trained on")


def small_run(folder: Path, tokens: int = 1000, kind: str = "llama", **options: object) -> AdaptRun:
    """A run in `folder`/run on a new base, or the same run continued."""
    base = folder / "base"
    if not base.exists():
        write_base(base, kind, max_position_embeddings=256)
        write_conversations(folder / "chat.jsonl")
    out = folder / "run"
    out.mkdir(parents=True, exist_ok=True)
    config = AdaptConfig(tokens=tokens, **{**SMALL, **options})  # type: ignore[arg-type]
    sources = load_sources([str(folder / "chat.jsonl")], held_out=2)
    return AdaptRun(config, read_base(str(base), config.block_length), sources, out)
