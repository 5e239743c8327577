"""Names of special tokens in text that somebody typed: found, broken by a sign that no text has,
and read as letters.

A chat template joins its own special tokens with what the messages say. To tell the two apart
behind it, every name of a
special token inside a message is broken before the template is rendered: a sign from a private use
area goes behind its
first letter.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from transformers import AddedToken

_SIGN = "\uf8f0"


@dataclass(frozen=True)
class SpecialNames:
    """The special tokens by name; `before` and `behind` those that swallow white space there."""

    names: tuple[str, ...]
    before: frozenset[str]
    behind: frozenset[str]

    @classmethod
    def of(cls, added: Mapping[int, Any], ids: Set[int]) -> SpecialNames:
        """Those of a tokenizer's added tokens that are special or have one of the ids."""
        found = [
            token for i, token in added.items() if (token.special or i in ids) and token.content
        ]
        names = sorted((token.content for token in found), key=len, reverse=True)
        before = frozenset(token.content for token in found if token.lstrip)
        behind = frozenset(token.content for token in found if token.rstrip)
        return cls(tuple(names), before, behind)

    def inside(self, text: str) -> bool:
        """Whether a text holds a name."""
        return any(name in text for name in self.names)

    def broken(self, messages: Any) -> Any:
        """The messages with every name in their texts broken; None where there is none.

        A name counts in any case, as templates may change it, and also where it only begins at the
        end of a text, as a template may go on behind that.
        """
        changed = _mapped(messages, self._break)
        return None if changed == messages else changed

    def joined(self, text: str) -> str:
        """The text without signs; two of them are one that was typed."""
        return re.sub(f"{_SIGN}({_SIGN}?)", r"\1", text)

    def parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """The text at its unbroken names: each part, and whether it is such a name."""
        pattern = "|".join(map(re.escape, self.names))
        parts = re.split(f"({pattern})", text)
        for i, part in enumerate(parts):
            if i % 2:
                yield part, True
                continue
            if i > 0 and parts[i - 1] in self.behind:
                part = part.lstrip()
            if i + 1 < len(parts) and parts[i + 1] in self.before:
                part = part.rstrip()
            if part:
                yield part, False

    def _break(self, text: str) -> str:
        """The text with a sign behind the first letter of every name in it, and signs of its own
        doubled.
        """
        text = text.replace(_SIGN, 2 * _SIGN)
        lower, end = text.lower(), len(text.rstrip())
        if len(lower) != len(
            text
        ):  # a letter whose small form is two: names are then found as they are
            lower = text
        places = set[int]()
        for name in (each.lower() for each in self.names):
            start = lower.find(name)
            while start >= 0:
                places.add(start + 1)
                start = lower.find(name, start + 1)
            begun = (
                n for n in range(min(len(name) - 1, end), 0, -1) if lower.endswith(name[:n], 0, end)
            )
            places.update(end - n + 1 for n in begun)
        cuts = [0, *sorted(places), len(text)]
        return _SIGN.join(text[a:b] for a, b in itertools.pairwise(cuts))


def _mapped(value: Any, change: Any) -> Any:
    """`change` done to every text inside a value; names of fields stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(each, change) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(each, change) for each in value]
    return value


class PlainTextEncoder:
    """A tokenizer that reads the names of special tokens as letters."""

    def __init__(self, backend: Any, names: SpecialNames) -> None:
        self._backend = backend
        rust = getattr(backend, "backend_tokenizer", None)
        self._rust = None if rust is None else type(rust).from_str(rust.to_str())
        if self._rust is not None:
            known = {
                token.content for token in backend.added_tokens_decoder.values() if token.special
            }
            more = [
                AddedToken(name, special=True, normalized=False)
                for name in names.names
                if name not in known
            ]
            self._rust.add_special_tokens(more)
            self._rust.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        if self._rust is not None:
            return list(self._rust.encode(text, add_special_tokens=False).ids)
        return list(self._backend.encode(text, add_special_tokens=False, split_special_tokens=True))
