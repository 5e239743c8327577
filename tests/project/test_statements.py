"""What the docs must say, because readers were misled where it was not said."""

from __future__ import annotations

from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
STATEMENTS = {
    "the ids over which confidence is normalised": (
        "reference/decoders.md",
        "a softmax over the ids that may be written, so without the mask",
    ),
    "whose constant 0.9 is": (
        "reference/decoders.md",
        "threshold 0.9 of the `credit` rules is Fast-dLLM's",
    ),
    "masks behind the answer in the last block": (
        "guide/llada-generate.md",
        "masks after `gen_length` in the last block are seen and never written",
    ),
    "an end token inside SGLang's block": (
        "guide/sglang.md",
        "`fixed` with an end at position 1 of 32 takes 33 passes here, and 2 in our own loop",
    ),
    "for which models likelihoods are published": (
        "guide/likelihood.md",
        "are of the *base* models",
    ),
    "padding in training": (
        "guide/training.md",
        "a row's loss depends on the longest row beside it",
    ),
    "search beside greedy decoding": ("research/verifiers.md", "| greedy, threshold 0.99 |"),
    "reinforcement learning beside greedy decoding": (
        "research/verifiers.md",
        "**Compared with greedy decoding**: both arms end below it",
    ),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_it_is_said(name: str) -> None:
    page, words = STATEMENTS[name]
    text = " ".join((DOCS / page).read_text(encoding="utf-8").split())
    assert words in text, f"docs/{page} no longer says: {words}"
