"""The text of a request as it becomes final: pieces that no later step can change.

Text is final when its ids are (`final_prefix`), its last character is complete, and it cannot be
the beginning of a stop string.
"""

from __future__ import annotations

from collections.abc import Sequence

from creditdecoding.decoding.advance import final_prefix
from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.trace import FinishEvent, StepEvent


class IncrementalDetokenizer:
    """The final `text` of a request and the final `ids` it comes from, without the end token."""

    def __init__(self, request: Request, vocab: SpecialTokens) -> None:
        self.request = request
        self.vocab = vocab
        self.text = ""
        self.ids: list[int] = []
        read_only = request.read_only[: request.answer_end].nonzero()[:, 0].tolist()
        self._written: dict[int, int] = dict(zip(read_only, request.canvas[read_only].tolist()))
        self._ids_in_text = 0

    def add(self, event: StepEvent | FinishEvent) -> str:
        """The piece of text that `event` made final, empty if there is none."""
        before = len(self.text)
        if isinstance(event, FinishEvent):
            self.ids = list(event.tokens)
            self._ids_in_text = len(self.ids)
            text = truncate_at_stop(self.vocab.decode(self.ids), self.request.config.stop)
        else:
            self._written = event.apply_to(self._written)
            ids, _ = final_prefix(self.request, self._leading_ids(), event.block, self.vocab)
            if len(ids) <= len(self.ids):
                return ""
            self.ids = ids
            text = self._final_text()
        if not text.startswith(self.text):
            return ""
        self.text = text
        return text[before:]

    @property
    def ids_in_text(self) -> int:
        """How many of the ids have all of their text in `text`; at the end all."""
        while self._ids_in_text < len(self.ids):
            if len(self._whole_characters(self._ids_in_text + 1)) > len(self.text):
                break
            self._ids_in_text += 1
        return self._ids_in_text

    def _leading_ids(self) -> list[int]:
        """The answer's ids before its first mask."""
        ids = []
        for position in range(self.request.answer_start, self.request.answer_end):
            if position not in self._written:
                break
            ids.append(self._written[position])
        return ids

    def _final_text(self) -> str:
        """The text of the ids, without an end that may be the beginning of a stop string."""
        stops = self.request.config.stop
        text = self._whole_characters(len(self.ids))
        truncated = truncate_at_stop(text, stops)
        if truncated != text:
            return truncated
        held_back = max((_overlap(text, stop) for stop in stops), default=0)
        return text[: len(text) - held_back]

    def _whole_characters(self, count: int) -> str:
        """The text of the first ids, without a last character that is incomplete."""
        return self.vocab.decode(self.ids[:count]).rstrip("\ufffd")


def truncate_at_stop(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first stop string."""
    starts = [text.find(stop) for stop in stops]
    return text[: min((start for start in starts if start >= 0), default=len(text))]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    for count in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:count]):
            return count
    return 0
