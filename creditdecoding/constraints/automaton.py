"""A language as a deterministic automaton over bytes (UTF-8)."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from creditdecoding.constraints.budget import Budget, too_large
from creditdecoding.constraints.language import (
    Chars,
    Either,
    Joined,
    Language,
    Repeated,
)
from creditdecoding.errors import OptionError, short_repr

MAX_STATES = 8192
"""States of an automaton: one for each byte of a fixed text, up to 13 for each of a string."""
MAX_NODES = 60_000
"""States before they are made deterministic."""
PARTS = "parts"
STATES = "states of patterns that must hold together"
SET_NODES = "nodes in the sets of states"
LIMITS = {
    PARTS: 500_000,
    STATES: 200_000,
    SET_NODES: 2_000_000,
}
"""The work of one constraint, with all automata that are made on the way."""
NO_TEXT = "no text satisfies the constraint"
_ENCODED_ENDS = (0x7F, 0x7FF, 0xFFFF, 0x10FFFF)
Spans: TypeAlias = tuple[tuple[int, int], ...]
"""Ranges of bytes: every combination of a byte of each."""


@dataclass(frozen=True, eq=False)
class ByteAutomaton:
    """States are numbered from 0, where texts begin; `dead` is the last number.

    - `next` [states + 1, 256]: the state after a byte; no accepted text goes through `dead`.
    - `accepting` [states + 1]: where a text may end.
    """

    next: NDArray[np.int32]
    accepting: NDArray[np.bool_]

    @property
    def dead(self) -> int:
        """The state of what cannot become an accepted text."""
        return len(self.next) - 1

    def accepts(self, text: bytes) -> bool:
        """Whether a text is in the language."""
        state = 0
        for byte in text:
            state = int(self.next[state, byte])
        return bool(self.accepting[state])

    def longest(self) -> int | None:
        """Bytes of the longest text; None if there is no longest one."""
        after = {i: set(row[row < self.dead].tolist()) for i, row in enumerate(self.next[:-1])}
        lengths: dict[int, int] = {}
        try:
            for state in TopologicalSorter(after).static_order():
                lengths[state] = max(
                    (lengths[later] + 1 for later in after[state]),
                    default=0,
                )
        except CycleError:
            return None
        return lengths[0]


def compile_language(
    language: Language,
) -> ByteAutomaton:
    """The automaton of a language. Raises `OptionError` if it is too large, or accepts nothing."""
    return _compile(language, Budget(LIMITS))


def _compile(language: Language, budget: Budget) -> ByteAutomaton:
    nodes = _Nodes(budget)
    end = nodes.add(language, nodes.new())
    return _deterministic(nodes, end)


class _Nodes:
    """A nondeterministic automaton that grows: arcs over ranges of bytes, and jumps over none."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.arcs: list[list[tuple[int, int, int]]] = []
        self.jumps: list[list[int]] = []

    def new(self) -> int:
        """Another node."""
        if len(self.arcs) >= MAX_NODES:
            raise too_large(f"more than {MAX_NODES} nodes")
        self.arcs.append([])
        self.jumps.append([])
        return len(self.arcs) - 1

    def add(self, language: Language, start: int) -> int:
        """Add what reads a language from `start` on; the node where it ends."""
        self.budget.spend(PARTS)
        if isinstance(language, Chars):
            return self._add_chars(language, start)
        if isinstance(language, Joined):
            for part in language.parts:
                start = self.add(part, start)
            return start
        if isinstance(language, Either):
            return self._add_options(language, start)
        if isinstance(language, Repeated):
            return self._add_repeated(language, start)
        with _naming(language.path):
            left = _compile(language.left, self.budget)
            right = _compile(language.right, self.budget)
            both = _product(left, right)
        for automaton in (left, right, both):
            self.budget.spend(STATES, automaton.dead)
        return self._add_automaton(both, start)

    def _add_chars(self, chars: Chars, start: int) -> int:
        """The UTF-8 bytes of a character; what ends alike is shared."""
        self.budget.spend(PARTS, len(chars.ranges))
        end = self.new()
        node_before: dict[Spans, int] = {(): end}
        for low, high in chars.ranges:
            for first, *rest in _kept_spans(low, high):
                target = self._node_before(tuple(rest), node_before)
                self.arcs[start].append((*first, target))
        return end

    def _node_before(self, spans: Spans, node_before: dict[Spans, int]) -> int:
        """The node from which these ranges of bytes lead to the end of a character."""
        if spans not in node_before:
            target = self._node_before(spans[1:], node_before)
            node = self.new()
            self.arcs[node].append((*spans[0], target))
            node_before[spans] = node
        return node_before[spans]

    def _add_options(self, either: Either, start: int) -> int:
        """Branches from one node, which meet again."""
        end = self.new()
        for option in either.options:
            branch = self.new()
            self.jumps[start].append(branch)
            self.jumps[self.add(option, branch)].append(end)
        return end

    def _add_repeated(self, repeated: Repeated, start: int) -> int:
        """Copies that must be read, then a loop or copies after each of which reading may end."""
        copies = repeated.least if repeated.most is None else repeated.most
        if copies > MAX_NODES:
            raise too_large(f"{copies} repetitions")
        for _ in range(repeated.least):
            start = self.add(repeated.part, start)
        if repeated.most is None:
            hub = self.new()
            self.jumps[start].append(hub)
            self.jumps[self.add(repeated.part, hub)].append(hub)
            start = hub
        end = self.new()
        for _ in range(repeated.least, repeated.most or 0):
            self.jumps[start].append(end)
            start = self.add(repeated.part, start)
        self.jumps[start].append(end)
        return end

    def _add_automaton(self, automaton: ByteAutomaton, start: int) -> int:
        """A node for each state, and one where all texts end."""
        nodes = [self.new() for _ in range(automaton.dead)]
        end = self.new()
        self.jumps[start].append(nodes[0])
        for state, byte in zip(*(automaton.next[:-1] != automaton.dead).nonzero()):
            target = nodes[automaton.next[state, byte]]
            self.arcs[nodes[state]].append((int(byte), int(byte), target))
        for state in automaton.accepting.nonzero()[0]:
            self.jumps[nodes[state]].append(end)
        return end


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Let an error for a language without texts name the innermost schema that has none."""
    try:
        yield
    except OptionError as error:
        if path and error.what == NO_TEXT:
            error.what += f": the keywords of the schema at {short_repr(path)} exclude each other"
        raise


@functools.lru_cache(maxsize=4096)
def _kept_spans(low: int, high: int) -> tuple[Spans, ...]:
    return tuple(_utf8_spans(low, high))


def _utf8_spans(low: int, high: int) -> Iterator[Spans]:
    """A range of code points as ranges of bytes."""
    for encoded_end in _ENCODED_ENDS:
        if low <= min(encoded_end, high):
            yield from _same_length_spans(low, min(encoded_end, high))
            low = encoded_end + 1


def _same_length_spans(low: int, high: int) -> Iterator[Spans]:
    """The same for code points with as many bytes each."""
    count = len(chr(low).encode())
    for continued in range(1, count):
        tail = (1 << 6 * continued) - 1
        if low & ~tail == high & ~tail:
            continue
        if low & tail:
            yield from _same_length_spans(low, low | tail)
            yield from _same_length_spans((low | tail) + 1, high)
            return
        if high & tail != tail:
            yield from _same_length_spans(low, (high & ~tail) - 1)
            yield from _same_length_spans(high & ~tail, high)
            return
    yield tuple(zip(chr(low).encode(), chr(high).encode()))


def _deterministic(nodes: _Nodes, end: int) -> ByteAutomaton:
    """The subset construction."""
    class_of, classes = _byte_classes(nodes.arcs)
    closure = _Closure(nodes, end)
    number = {closure.of((0,)): 0}
    rows: list[dict[int, int]] = []
    waiting = list(number)
    for subset in waiting:
        row = {}
        for byte_class, reached in _targets(nodes, subset, class_of).items():
            successor = closure.of(reached)
            if successor not in number:
                number[successor] = len(number)
                waiting.append(successor)
            row[byte_class] = number[successor]
        rows.append(row)
        if len(number) > MAX_STATES:
            raise too_large(f"more than {MAX_STATES} states")
    table = np.full(
        (len(rows) + 1, classes),
        len(rows),
        dtype=np.int32,
    )
    for state, row in enumerate(rows):
        table[state, list(row)] = list(row.values())
    accepting = np.array([end in subset for subset in number] + [False])
    return _trimmed(table, class_of, accepting)


def _targets(
    nodes: _Nodes,
    subset: frozenset[int],
    class_of: NDArray[np.int64],
) -> dict[int, set[int]]:
    """Where arcs lead from some nodes, by the class of the byte."""
    targets: defaultdict[int, set[int]] = defaultdict(set)
    for low, high, target in (arc for node in subset for arc in nodes.arcs[node]):
        for byte_class in range(class_of[low], class_of[high] + 1):
            targets[byte_class].add(target)
    return targets


class _Closure:
    """The nodes that jumps reach, kept. Nodes without arcs are left out, but not the end: nothing
    else tells what can follow apart.
    """

    def __init__(self, nodes: _Nodes, end: int) -> None:
        self._nodes = nodes
        self._end = end
        self._reached: dict[int, frozenset[int]] = {}
        self._of_all: dict[frozenset[int], frozenset[int]] = {}

    def of(self, nodes: Iterable[int]) -> frozenset[int]:
        """The nodes and all that jumps reach from them."""
        key = frozenset(nodes)
        if key not in self._of_all:
            self._of_all[key] = self._union(key)
        return self._of_all[key]

    def _union(self, key: frozenset[int]) -> frozenset[int]:
        """What jumps reach from some nodes."""
        union: set[int] = set()
        for node in key:
            reached = self._from(node)
            self._nodes.budget.spend(SET_NODES, len(reached))
            union |= reached
        return frozenset(union)

    def _from(self, node: int) -> frozenset[int]:
        """What jumps reach from a node."""
        if node not in self._reached:
            reached = {node}
            waiting = [node]
            while waiting:
                fresh = set(self._nodes.jumps[waiting.pop()]) - reached
                self._nodes.budget.spend(SET_NODES, len(fresh))
                reached |= fresh
                waiting += fresh
            arcs = self._nodes.arcs
            self._reached[node] = frozenset(i for i in reached if arcs[i] or i == self._end)
        return self._reached[node]


def _byte_classes(
    arcs: list[list[tuple[int, int, int]]],
) -> tuple[NDArray[np.int64], int]:
    """The class of each byte, and how many there are: no arc tells bytes of a class apart."""
    is_first = np.zeros(257, dtype=np.int64)
    for low, high, _ in (arc for leaving in arcs for arc in leaving):
        is_first[[low, high + 1]] = 1
    is_first[0] = 0
    class_of = is_first.cumsum()[:256]
    return class_of, int(class_of[-1]) + 1


def _product(left: ByteAutomaton, right: ByteAutomaton) -> ByteAutomaton:
    """The automaton of what both accept."""
    byte, class_of = _common_classes(left, right)
    number = {(0, 0): 0}
    waiting = [(0, 0)]
    rows = []
    for a, b in waiting:
        row = []
        for pair in zip(
            left.next[a, byte].tolist(),
            right.next[b, byte].tolist(),
        ):
            is_alive = pair[0] != left.dead and pair[1] != right.dead
            if is_alive and pair not in number:
                number[pair] = len(number)
                waiting.append(pair)
            row.append(number.get(pair, -1))
        rows.append(row)
        if len(number) > MAX_STATES:
            raise too_large(f"more than {MAX_STATES} states")
    table = np.array([*rows, [-1] * len(byte)], dtype=np.int32)
    table[table < 0] = len(rows)
    ends = [left.accepting[a] and right.accepting[b] for a, b in waiting]
    return _trimmed(table, class_of, np.array([*ends, False]))


def _common_classes(
    left: ByteAutomaton, right: ByteAutomaton
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A byte of each class that neither automaton tells apart, and the class of each byte."""
    both = np.concatenate((left.next, right.next))
    _, byte, class_of = np.unique(
        both,
        axis=1,
        return_index=True,
        return_inverse=True,
    )
    return byte, class_of.reshape(-1)


def _trimmed(
    table: NDArray[np.int32],
    class_of: NDArray[np.int64],
    accepting: NDArray[np.bool_],
) -> ByteAutomaton:
    """The automaton of a table [states + 1, classes of bytes], without states from which no text
    ends. Raises `OptionError` if none is left.
    """
    useful = _leading_to(table, accepting)
    if not useful[0]:
        raise OptionError(
            NO_TEXT,
            hint="Check bounds, lengths and patterns.",
        )
    kept = useful.nonzero()[0]
    new_number = np.full(len(table), len(kept), dtype=np.int32)
    new_number[kept] = np.arange(len(kept))
    dead = np.full((1, table.shape[1]), len(kept), dtype=np.int32)
    ends = np.append(accepting[kept], False)
    return ByteAutomaton(
        np.concatenate((new_number[table[kept]], dead))[:, class_of],
        ends,
    )


def _leading_to(table: NDArray[np.int32], ends: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The states from which one of the ends can be reached."""
    before: defaultdict[int, set[int]] = defaultdict(set)
    for state, later in enumerate(table[:-1].tolist()):
        for target in later:
            before[target].add(state)
    useful = ends.copy()
    waiting = ends.nonzero()[0].tolist()
    while waiting:
        fresh = [state for state in before[waiting.pop()] if not useful[state]]
        useful[fresh] = True
        waiting += fresh
    return useful
