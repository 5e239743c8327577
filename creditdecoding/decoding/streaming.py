"""The text of a row as it becomes final: pieces that no later step can take back.

Text is final when everything before it is written (under a rule that edits or revokes, when its
block is finished), its last character is
whole, and it cannot be the beginning of a stop string.
"""

from __future__ import annotations

from collections.abc import Sequence

from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.trace import FinishEvent, StepEvent


class IncrementalDetokenizer:
    """What of a row can be read: `text`, final so far, and `ids`, the final ids it comes from (the
    end token left out), what was begun among them.
    """

    def __init__(self, row: Request, words: SpecialTokens) -> None:
        self.row, self.words = row, words
        self.text = ""
        self.ids: list[int] = []
        self._written: dict[int, int] = dict(enumerate(row.answer_prefix, row.answer_start))
        self._covered = 0
        self._ended = False

    def add(self, event: StepEvent | FinishEvent) -> str:
        """The piece of text that `event` made final, empty where there is none."""
        if isinstance(event, StepEvent):
            self._written = event.apply_to(self._written)
            text = self._held() if self._grown(event.block) else self.text
        else:
            self.ids, self._ended = list(event.tokens), True
            text = truncate_at_stop(self.words.decode(self.ids), self.row.config.stop)
        piece = text[len(self.text) :] if text.startswith(self.text) else ""
        self.text += piece
        return piece

    @property
    def ids_in_text(self) -> int:
        """How many of the first ids lie whole in the text; at the end all."""
        if self._ended:
            self._covered = len(self.ids)
        while self._covered < len(self.ids) and len(self._whole(self._covered + 1)) <= len(
            self.text
        ):
            self._covered += 1
        return self._covered

    def _grown(self, block: int) -> bool:
        """Take the ids up that are final now; whether there are any."""
        row, before = self.row, len(self.ids)
        end = row.blocks[block][0] if row.can_revise else row.answer_end
        while (
            (at := row.answer_start + len(self.ids)) < end
            and at in self._written
            and self._written[at] not in self.words.stop_ids
        ):
            self.ids.append(self._written[at])
        return len(self.ids) > before

    def _held(self) -> str:
        """The text so far without what may turn out to be part of a stop string."""
        text, stops = self._whole(len(self.ids)), self.row.config.stop
        shown = truncate_at_stop(text, stops)
        if shown != text:
            return shown
        return text[: len(text) - max((_overlap(text, stop) for stop in stops), default=0)]

    def _whole(self, count: int) -> str:
        """Text of the first ids, a last character that is not complete left out."""
        return self.words.decode(self.ids[:count]).rstrip("\ufffd")


def truncate_at_stop(text: str, stops: Sequence[str]) -> str:
    """`text` before the first stop string."""
    return text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that may be the beginning of `stop`."""
    return next(
        (n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0
    )
