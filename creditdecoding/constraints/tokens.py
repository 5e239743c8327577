"""An automaton over bytes, read token by token: which ids may stand at which position.

Tokens are written in any order. The states that the tokens before a position allow, from the left,
and those that the tokens after it allow, from the right, meet at every position: an id may stand
there if it leads from a state of the one set to a state of the other. These sets are exact: there
is a whole text through each id that is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from creditdecoding.constraints.automaton import MAX_STATES, ByteAutomaton
from creditdecoding.errors import OptionError

Ints = NDArray[np.int64]
Edges: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32]]
"""The states where edges begin, and those where they end."""
MASK = -1
"""Stands for a position that is not written yet."""
MAX_EDGES = 4_000_000
_KEPT = 20_000
_KEPT_REACHES = 64
"""Results of one kind that an automaton keeps, at most."""
_KEPT_BYTES = 8 * 2**20
"""Bytes of these results, at most: a large automaton keeps fewer."""


class _Level(NamedTuple):
    """Beginnings of tokens with one number of bytes: `parent` among those with one byte less, the
    last byte, and the tokens (`ids`) that are whole at the beginning number `whole`.
    """

    parent: Ints
    byte: Ints
    ids: Ints
    whole: Ints


class TokenTrie:
    """The texts of a vocabulary's tokens, by their beginnings."""

    def __init__(self, texts: Mapping[int, bytes]) -> None:
        """`texts`: the bytes of each id that may be part of a text, none of them empty."""
        self.texts = texts
        self.size = max(texts, default=-1) + 1
        self.levels: tuple[_Level, ...] = tuple(self._levels())

    def _levels(self) -> Iterator[_Level]:
        ids = np.array(sorted(self.texts), dtype=np.int64)
        lengths = np.array([len(self.texts[i]) for i in ids.tolist()], dtype=np.int64)
        node_of = np.zeros(len(ids), dtype=np.int64)
        depth = 0
        while len(ids):
            last = np.array([self.texts[i][depth] for i in ids.tolist()], dtype=np.int64)
            nodes, node_of = np.unique(node_of * 256 + last, return_inverse=True)
            depth += 1
            is_whole = lengths == depth
            yield _Level(
                parent=nodes // 256,
                byte=nodes % 256,
                ids=ids[is_whole],
                whole=node_of[is_whole],
            )
            ids = ids[~is_whole]
            lengths = lengths[~is_whole]
            node_of = node_of[~is_whole]


def make_room(kept: dict[Any, Any], size: int, most: int = _KEPT) -> None:
    """Forget the kept results if one more of `size` bytes would be too many."""
    if len(kept) >= min(most, 1 + _KEPT_BYTES // (1 + size)):
        kept.clear()


@dataclass(frozen=True, eq=False)
class TokenAutomaton:
    """States and, for each class of ids, its edges.

    - `class_of` [ids]: the class of each id; class 0 is never allowed.
    - `source`, `target` [edges], those of class c from `first[c]` to `first[c + 1]`.
    - `accepting` [states]: where an answer that fills all of its positions may end. Answers begin
      in state 0.
    """

    class_of: NDArray[np.int32]
    source: NDArray[np.int32]
    target: NDArray[np.int32]
    first: NDArray[np.int64]
    accepting: NDArray[np.bool_]
    pairs: Edges
    """`source` and `target` of all edges, each pair once."""
    longest: int | None = None
    """The most tokens that an answer can have, with its end; None if there is no limit."""
    _forward: dict[tuple[bytes, int | None], bytes] = field(default_factory=dict, repr=False)
    _backward: dict[tuple[bytes, int | None], bytes] = field(default_factory=dict, repr=False)
    _allowed: dict[tuple[bytes, bytes], NDArray[np.bool_]] = field(default_factory=dict, repr=False)
    _reach: dict[tuple[int, ...], Reach] = field(default_factory=dict, repr=False)
    on_device: dict[Any, Any] = field(default_factory=dict, repr=False)
    """`class_of` as a tensor, by device and size."""

    def step(
        self,
        states: bytes,
        token: int,
        forward: bool = True,
    ) -> bytes:
        """The states after a token (`MASK`: any), or with `forward` false those before it."""
        token_class = None if token == MASK else self._class(token)
        kept = self._forward if forward else self._backward
        reached = kept.get((states, token_class))
        if reached is None:
            reached = self._step(states, token_class, forward)
            make_room(kept, len(states) + len(reached))
            kept[states, token_class] = reached
        return reached

    @property
    def size(self) -> int:
        """Edges, of which all of its memory is a multiple but for the kept results."""
        return len(self.source) + len(self.pairs[0]) + len(self.class_of)

    def _class(self, token: int) -> int:
        """The class of an id; ids beyond those of texts are never allowed."""
        return int(self.class_of[token]) if token < len(self.class_of) else 0

    def _step(self, states: bytes, token_class: int | None, forward: bool) -> bytes:
        """The states that edges of a class lead to, or with `forward` false come from."""
        source, target = self._edges(token_class)
        if not forward:
            source, target = target, source
        is_start = np.frombuffer(states, dtype=np.bool_)
        reached = np.zeros(len(self.accepting), dtype=np.bool_)
        reached[target[is_start[source]]] = True
        return reached.tobytes()

    def _edges(self, token_class: int | None) -> Edges:
        """Where the edges of a class begin and end; without a class those of all."""
        if token_class is None:
            return self.pairs
        own = slice(self.first[token_class], self.first[token_class + 1])
        return self.source[own], self.target[own]

    def reach(self, tokens: Sequence[int]) -> Reach:
        """The states from both sides of an answer's tokens, `MASK` where nothing is written."""
        key = tuple(tokens)
        reach = self._reach.get(key)
        if reach is None:
            make_room(self._reach, 2 * len(key) * len(self.accepting), _KEPT_REACHES)
            reach = self._reach[key] = self._both_sides(tokens)
        return reach

    def _both_sides(self, tokens: Sequence[int]) -> Reach:
        begin = np.zeros(len(self.accepting), dtype=np.bool_)
        begin[0] = True
        before = [begin.tobytes()]
        for token in tokens:
            before.append(self.step(before[-1], token))
        after = [self.accepting.tobytes()]
        for token in reversed(tokens):
            after.append(self.step(after[-1], token, forward=False))
        return Reach(before, after[::-1])

    def allowed(self, before: bytes, after: bytes) -> NDArray[np.bool_]:
        """Which classes may stand between two sets of states, [classes]."""
        classes = self._allowed.get((before, after))
        if classes is None:
            classes = self._classes(before, after)
            make_room(self._allowed, len(before) + len(after) + len(classes))
            self._allowed[before, after] = classes
        return classes

    def _classes(self, before: bytes, after: bytes) -> NDArray[np.bool_]:
        left = np.frombuffer(before, dtype=np.bool_)
        right = np.frombuffer(after, dtype=np.bool_)
        passes = left[self.source] & right[self.target]
        counts = np.concatenate(([0], passes.cumsum()))
        classes: NDArray[np.bool_] = counts[self.first[1:]] > counts[self.first[:-1]]
        return classes

    def fits(
        self,
        tokens: Sequence[int],
        reach: Reach,
        start: int,
        end: int,
    ) -> bool:
        """Whether some whole answer has these tokens, which differ from those of `reach` at most
        from `start` to `end`.
        """
        states = reach.before[start]
        for token in tokens[start:end]:
            states = self.step(states, token)
        left = np.frombuffer(states, dtype=np.bool_)
        return bool((left & np.frombuffer(reach.after[end], dtype=np.bool_)).any())

    def shortest(self) -> int | None:
        """The fewest tokens of an answer; None if there is none."""
        states = self.reach(()).before[0]
        for count in range(len(self.accepting) + 1):
            if (np.frombuffer(states, dtype=np.bool_) & self.accepting).any():
                return count
            states = self.step(states, MASK)
        return None


class Reach(NamedTuple):
    """The states that the tokens before position i allow, and those that the tokens from i on
    allow, both [length + 1]. Sets of states are bytes, one for each state.
    """

    before: list[bytes]
    after: list[bytes]


def over_tokens(
    automaton: ByteAutomaton,
    trie: TokenTrie,
    stop_ids: Sequence[int],
) -> TokenAutomaton:
    """The automaton of answers in the language: tokens in any division of the text, then nothing
    but `stop_ids`. Raises `OptionError` if it is too large.
    """
    dead = automaton.dead
    rows, class_of = _token_classes(automaton, trie)
    groups, sources = (rows[:, :-1] != dead).nonzero()
    if len(groups) > MAX_EDGES:
        raise OptionError(
            "the constraint is too large for this vocabulary",
            given=f"{len(groups)} transitions",
            allowed=f"{MAX_EDGES} at most",
            hint="Lower lengths and repetitions, or split it over several requests.",
        )
    edges = np.stack((groups, sources, rows[groups, sources]))
    return _with_end(
        class_of,
        edges,
        automaton.accepting,
        stop_ids,
        automaton.longest(),
    )


def over_sequences(
    sequences: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
) -> TokenAutomaton:
    """The automaton of answers that are one of these sequences of ids, then `stop_ids`. Raises
    `OptionError` if they have too many tokens.
    """
    ids = np.unique(np.concatenate([np.array(sequence) for sequence in sequences]))
    class_of = np.zeros(int(ids[-1]) + 1, dtype=np.int32)
    class_of[ids] = np.arange(1, len(ids) + 1)
    ends, edges = _beginnings(sequences)
    accepting = np.zeros(edges.shape[1] + 2, dtype=np.bool_)
    accepting[ends] = True
    edges[0] = class_of[edges[0]]
    return _with_end(
        class_of,
        edges,
        accepting,
        stop_ids,
        max(map(len, sequences)),
    )


def _beginnings(sequences: Sequence[Sequence[int]]) -> tuple[list[int], Ints]:
    """The states of a trie: that at the end of each sequence, and how ids lead from one state to
    the next, [id, from, to] by edge. Raises `OptionError` if there are too many.
    """
    state_after: dict[tuple[int, int], int] = {}
    ends = []
    for sequence in sequences:
        state = 0
        for token in sequence:
            state = state_after.setdefault((state, token), len(state_after) + 1)
        ends.append(state)
        if len(state_after) > MAX_STATES:
            raise OptionError(
                "the choices are too large",
                given=f"more than {MAX_STATES} tokens",
                allowed=f"{MAX_STATES} in all, a beginning that choices share counted once",
                hint="Shorten them, or split them over several requests.",
            )
    edges = [(token, state, later) for (state, token), later in state_after.items()]
    return ends, np.array(edges, dtype=np.int64).T


def _with_end(
    class_of: NDArray[np.int32],
    edges: Ints,
    accepting: NDArray[np.bool_],
    stop_ids: Sequence[int],
    longest: int | None,
) -> TokenAutomaton:
    """The automaton of `edges` [class, from, to] with an end: `stop_ids` lead from where a text may
    end to the last state, which they do not leave.
    """
    stop = int(class_of.max()) + 1
    if stop_ids:
        missing = max(0, max(stop_ids) + 1 - len(class_of))
        class_of = np.pad(class_of, (0, missing))
        class_of[list(stop_ids)] = stop
        edges = np.concatenate((edges, _end_edges(accepting, stop)), axis=1)
        accepting = np.append(accepting[:-1], True)
    groups, source, target = edges[:, np.argsort(edges[0], kind="stable")].astype(np.int32)
    pairs = np.unique(np.stack((source, target)), axis=1)
    return TokenAutomaton(
        class_of=class_of,
        source=source,
        target=target,
        first=np.searchsorted(groups, np.arange(stop + 2)),
        accepting=accepting,
        pairs=(pairs[0], pairs[1]),
        longest=longest,
    )


def _end_edges(accepting: NDArray[np.bool_], stop: int) -> Ints:
    """From where a text may end to the last state, and from there to itself."""
    end = len(accepting) - 1
    leaving = np.append(accepting.nonzero()[0], end)
    classes = np.full_like(leaving, stop)
    ends = np.full_like(leaving, end)
    return np.stack((classes, leaving, ends))


def _token_classes(
    automaton: ByteAutomaton, trie: TokenTrie
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where each class of tokens leads from every state, [classes, states + 1], and the class of
    each id. Class 0 leads nowhere.
    """
    moves = _Moves(automaton)
    class_of = np.zeros(trie.size, dtype=np.int64)
    node_class = np.array([1])
    for level in trie.levels:
        node_class = moves.after(node_class[level.parent], level.byte)
        class_of[level.ids] = node_class[level.whole]
    used = np.unique(np.append(class_of, 0))
    new_number = np.searchsorted(used, class_of)
    return np.stack([moves.rows[i] for i in used]), new_number.astype(np.int32)


class _Moves:
    """Where texts lead from every state; texts that lead alike are one class."""

    def __init__(self, automaton: ByteAutomaton) -> None:
        self._next = automaton.next
        nowhere = np.full(
            len(automaton.next),
            automaton.dead,
            dtype=np.int32,
        )
        self.rows = [
            nowhere,
            np.arange(len(nowhere), dtype=np.int32),
        ]
        self._number = {row.tobytes(): i for i, row in enumerate(self.rows)}

    def after(self, classes: Ints, byte: Ints) -> Ints:
        """The class of each text with one more byte. Raises `OptionError` if there are too many."""
        pairs, pair_of = np.unique(classes * 256 + byte, return_inverse=True)
        pair_class = np.zeros(len(pairs), dtype=np.int64)
        for i, pair in enumerate(pairs.tolist()):
            if pair >= 256:  # class 0 stays nowhere
                pair_class[i] = self._class(
                    self._next[
                        self.rows[pair // 256],
                        pair % 256,
                    ]
                )
        return pair_class[pair_of]

    def _class(self, row: NDArray[np.int32]) -> int:
        key = row.tobytes()
        if key not in self._number:
            self._number[key] = len(self.rows)
            self.rows.append(row)
            if len(self.rows) * len(row) > 16 * MAX_EDGES:
                raise OptionError(
                    "the constraint is too large for this vocabulary",
                    given=f"{len(row)} states and {len(self.rows)} classes of tokens",
                    hint="Lower lengths and repetitions, or split it over several requests.",
                )
        return self._number[key]
