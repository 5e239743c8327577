"""What a request asks for, and its automaton over the ids of a vocabulary."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from creditdecoding.constraints.automaton import (
    compile_language,
)
from creditdecoding.constraints.json_schema import (
    schema_language,
)
from creditdecoding.constraints.regex import (
    whole_pattern,
)
from creditdecoding.constraints.tokens import (
    TokenAutomaton,
    TokenTrie,
    over_sequences,
    over_tokens,
)
from creditdecoding.errors import OptionError

MAX_GUIDED_CHOICES = 1024
KEPT = 64
"""Automata that a compiler keeps for requests with the same constraint, at most."""
KEPT_EDGES = 16_000_000
"""Edges of all that it keeps: at 8 bytes each 128 MB. The last one stays, however large."""


@dataclass(frozen=True)
class Constraint:
    """A condition that an answer must satisfy: `kind` is "choice", "regex" or "json_schema".

    `spec` are the choices, the pattern, or the schema as JSON text. `choice`, `regex` and
    `json_schema` make one.
    """

    kind: str
    spec: str | tuple[str, ...]


def choice(options: Sequence[str]) -> Constraint:
    """The answer is one of these texts. Raises `OptionError`."""
    is_list = isinstance(options, Sequence) and not isinstance(options, str)
    if not is_list or not 0 < len(options) <= MAX_GUIDED_CHOICES or not _are_texts(options):
        raise OptionError(
            "choices must be texts that are not empty",
            given=options,
            allowed=f"a list of 1 to {MAX_GUIDED_CHOICES} texts",
            hint="Correct the list.",
        )
    return Constraint("choice", tuple(options))


def _are_texts(options: Sequence[object]) -> bool:
    """Whether all are texts that are not empty."""
    return all(isinstance(option, str) and option for option in options)


def regex(pattern: str) -> Constraint:
    """The whole answer matches a pattern, in Python's syntax. Raises `OptionError`."""
    if not isinstance(pattern, str):
        raise OptionError(
            "the pattern is not a text",
            given=pattern,
            hint="Give a regular expression.",
        )
    return Constraint("regex", pattern)


def json_schema(
    schema: Mapping[str, Any],
) -> Constraint:
    """The answer is a JSON text that is valid under the schema. Raises `OptionError`."""
    try:
        return Constraint("json_schema", json.dumps(schema))
    except (
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        raise OptionError(
            f"the schema is no JSON ({error})",
            hint="Correct it.",
        ) from error


class ConstraintCompiler:
    """Makes automata over one vocabulary, and keeps the last ones."""

    def __init__(
        self,
        texts: Callable[[], Mapping[int, bytes]],
        encode: Callable[[str], Sequence[int]],
        decode: Callable[[Sequence[int]], str],
        stop_ids: Sequence[int],
    ) -> None:
        """`texts`: the bytes of each id that may be part of a text; it is called once."""
        self._texts = texts
        self._encode = encode
        self._decode = decode
        self._stop_ids = tuple(stop_ids)
        self._trie: TokenTrie | None = None
        self._kept: dict[tuple[Constraint, bool], TokenAutomaton] = {}
        self._lock = threading.Lock()

    def compile(
        self,
        constraint: Constraint,
        may_end: bool = True,
    ) -> TokenAutomaton:
        """The automaton of a constraint. Unless `may_end`, answers fill all of their positions.

        Raises `OptionError` for what no automaton can express, or only one that is too large.
        """
        key = (constraint, may_end)
        with self._lock:
            automaton = self._kept.pop(key, None) or self._compile(constraint, may_end)
            self._kept[key] = automaton
            while len(self._kept) > 1 and self._is_full():
                del self._kept[next(iter(self._kept))]
        return automaton

    def _is_full(self) -> bool:
        edges = sum(automaton.size for automaton in self._kept.values())
        return len(self._kept) > KEPT or edges > KEPT_EDGES

    def _compile(self, constraint: Constraint, may_end: bool) -> TokenAutomaton:
        stop_ids = self._stop_ids if may_end else ()
        spec = constraint.spec
        if not isinstance(spec, str):
            return over_sequences(
                [self._ids(text) for text in spec],
                stop_ids,
            )
        if self._trie is None:
            self._trie = TokenTrie(self._texts())
        try:
            is_regex = constraint.kind == "regex"
            language = whole_pattern(spec) if is_regex else schema_language(json.loads(spec))
            automaton = compile_language(language)
        except RecursionError as error:
            what = "the constraint is nested too deeply"
            raise OptionError(what, hint="Make it flatter.") from error
        return over_tokens(automaton, self._trie, stop_ids)

    def _ids(self, text: str) -> list[int]:
        ids = list(self._encode(text))
        if not ids or self._decode(ids) != text:
            raise OptionError(
                "the tokenizer does not keep this choice",
                given=text,
                hint="Write it in other characters.",
            )
        return ids
