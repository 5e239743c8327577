"""What a person asked, read back from the ids of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from creditdecoding.errors import CreditError
from creditdecoding.text.tokenizer import Tokenizer

PROBES = ("x", "0")
"""Two questions that begin and end differently: what their prompts share is the template."""


def question_text(tokenizer: Tokenizer, prompt: Sequence[int]) -> str:
    """The text of a prompt without the chat template around it and without special tokens."""
    start, end = _template_lengths(tokenizer, prompt)
    return tokenizer.decode(list(prompt)[start : len(prompt) - end]).strip()


def _template_lengths(tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[int, int]:
    """How many ids at both ends of the prompt are the chat template's."""
    try:
        probes = [tokenizer.encode_chat([{"role": "user", "content": x}]) for x in PROBES]
    except CreditError:  # no template, or one that refuses
        return 0, 0
    start = min(_shared(prompt, probe) for probe in probes)
    rest = list(prompt)[start:]
    return start, min(_shared(rest[::-1], probe[::-1]) for probe in probes)


def _shared(ids: Sequence[int], others: Sequence[int]) -> int:
    """The length of the beginning that two sequences share."""
    pairs = enumerate(zip(ids, others))
    return next((i for i, (a, b) in pairs if a != b), min(len(ids), len(others)))
