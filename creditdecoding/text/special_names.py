"""Names of special tokens in text that users type: found, marked as plain, and read as letters.

A chat template joins its special tokens with the messages. To tell the two apart in its output,
every name of a special token inside a message is marked before the template is rendered: a sign
from a private use area is put after its first letter.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken

_SIGN = "\uf8f0"


@dataclass(frozen=True)
class SpecialNames:
    """Names of special tokens; `strip_before` and `strip_after` swallow white space on that
    side.
    """

    names: tuple[str, ...]
    strip_before: frozenset[str]
    strip_after: frozenset[str]

    @classmethod
    def from_added(cls, added: Mapping[int, Any], ids: Set[int]) -> SpecialNames:
        """Of a tokenizer's added tokens, those that are special or have one of the `ids`."""
        tokens = [token for i, token in added.items() if (token.special or i in ids)]
        tokens = [token for token in tokens if token.content]
        names = sorted((token.content for token in tokens), key=len, reverse=True)
        strip_before = frozenset(token.content for token in tokens if token.lstrip)
        strip_after = frozenset(token.content for token in tokens if token.rstrip)
        return cls(tuple(names), strip_before, strip_after)

    def occur_in(self, text: str) -> bool:
        """Whether a text has a name in it."""
        return any(name in text for name in self.names)

    def mark(self, messages: Any) -> Any:
        """The messages, or a text, with every name in them marked as plain.

        Upper and lower case count as equal, since templates may change them. The beginning of a
        name at the end of a text is marked too, since the template may complete it.
        """
        return _map_texts(messages, self._mark)

    def unmark(self, text: str) -> str:
        """The text without signs; a double sign is one that the user typed."""
        return re.sub(f"{_SIGN}({_SIGN}?)", r"\1", text)

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """Split a text at its unmarked names: each part, and whether it is such a name."""
        pattern = "|".join(map(re.escape, self.names))
        parts = re.split(f"({pattern})", text)
        for i, part in enumerate(parts):
            if i % 2:
                yield part, True
                continue
            if i > 0 and parts[i - 1] in self.strip_after:
                part = part.lstrip()
            if i + 1 < len(parts) and parts[i + 1] in self.strip_before:
                part = part.rstrip()
            if part:
                yield part, False

    def _mark(self, text: str) -> str:
        text = text.replace(_SIGN, 2 * _SIGN)
        lower = text.lower()
        if len(lower) != len(text):  # a letter whose lower case is two letters
            lower = text
        end = len(text.rstrip())
        cuts = set[int]()
        for name in self.names:
            name = name.lower()
            start = lower.find(name)
            while start >= 0:
                cuts.add(start + 1)
                start = lower.find(name, start + 1)
            for length in range(1, min(len(name), end + 1)):
                if lower.endswith(name[:length], 0, end):
                    cuts.add(end - length + 1)
        edges = [0, *sorted(cuts), len(text)]
        return _SIGN.join(text[start:end] for start, end in itertools.pairwise(edges))


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """`change` applied to every text inside a value, but not to names of fields."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _map_texts(field, change) for name, field in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(entry, change) for entry in value]
    return value


class PlainTextEncoder:
    """A tokenizer that reads names of special tokens as letters."""

    def __init__(self, backend: Any, names: SpecialNames) -> None:
        self._backend = backend
        rust = getattr(backend, "backend_tokenizer", None)
        self._rust = None if rust is None else type(rust).from_str(rust.to_str())
        if self._rust is None:
            return
        added = backend.added_tokens_decoder.values()
        known = {token.content for token in added if token.special}
        self._rust.add_special_tokens(
            [
                AddedToken(name, special=True, normalized=False)
                for name in names.names
                if name not in known
            ]
        )
        self._rust.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        if self._rust is not None:
            return list(self._rust.encode(text, add_special_tokens=False).ids)
        return list(self._backend.encode(text, add_special_tokens=False, split_special_tokens=True))
