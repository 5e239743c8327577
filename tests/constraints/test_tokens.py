"""Which ids may stand where, against every sequence of a small vocabulary."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from creditdecoding.constraints import constraint, tokens
from creditdecoding.constraints.automaton import compile_language
from creditdecoding.constraints.constraint import ConstraintCompiler, choice, json_schema, regex
from creditdecoding.constraints.regex import whole_pattern
from creditdecoding.constraints.tokens import MASK, TokenTrie, over_tokens
from creditdecoding.errors import OptionError

TEXTS = {0: b"a", 1: b"b", 2: b"ab", 3: b"ba", 4: b"\xc3", 5: b"\xa9", 6: b"c\xc3"}
STOP, LENGTH = 7, 4
PATTERNS = ["(ab)*|c", "a{1,3}b?", "[bé]+", "(a|ca|cé)b*", "a"]


def answers(pattern: str, ends: bool) -> list[tuple[int, ...]]:
    """Every sequence whose text up to the first end token matches, with nothing but ends after."""
    whole = []
    for ids in itertools.product((*TEXTS, STOP), repeat=LENGTH):
        count = ids.index(STOP) if STOP in ids else LENGTH
        text = b"".join(TEXTS[i] for i in ids[:count]).decode("latin-1")
        try:
            matches = re.fullmatch(pattern, text.encode("latin-1").decode())
        except UnicodeDecodeError:
            continue
        if matches and set(ids[count:]) <= {STOP} and (ends or count == LENGTH):
            whole.append(ids)
    return whole


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("ends", [True, False])
def test_the_ids_that_are_allowed_are_those_of_whole_answers(pattern: str, ends: bool) -> None:
    automaton = over_tokens(
        compile_language(whole_pattern(pattern)), TokenTrie(TEXTS), [STOP] if ends else []
    )
    whole = answers(pattern, ends)
    rng = random.Random(0)
    for known in [*rng.choices(whole, k=12)] if whole else []:
        tokens = [token if rng.random() < 0.4 else MASK for token in known]
        fitting = [w for w in whole if all(t in (MASK, i) for t, i in zip(tokens, w))]
        reach = automaton.reach(tokens)
        for position in range(LENGTH):
            classes = automaton.allowed(reach.before[position], reach.after[position + 1])
            allowed = {i for i in (*TEXTS, STOP) if i < len(automaton.class_of)}
            allowed = {i for i in allowed if classes[automaton.class_of[i]]}
            others = [t if i != position else MASK for i, t in enumerate(tokens)]
            expected = [w for w in whole if all(t in (MASK, i) for t, i in zip(others, w))]
            assert allowed == {w[position] for w in expected}
        changed = list(rng.choice(fitting))
        assert automaton.fits(changed, reach, 0, LENGTH)
        changed[rng.randrange(LENGTH)] = rng.choice((*TEXTS, STOP))
        assert automaton.fits(changed, reach, 0, LENGTH) == (tuple(changed) in whole)
    shortest = min((w.index(STOP) if STOP in w else LENGTH for w in whole), default=None)
    if ends:
        assert automaton.shortest() == shortest


def compiler() -> ConstraintCompiler:
    def encode(text: str) -> list[int]:
        return [
            next(i for i in (2, 0, 1) if TEXTS[i].decode() == part)
            for part in re.findall("ab|a|b", text)
        ]

    def decode(ids: object) -> str:
        return b"".join(TEXTS[i] for i in ids).decode()  # type: ignore[attr-defined]

    return ConstraintCompiler(lambda: TEXTS, encode, decode, [STOP])


def test_choices_are_written_as_the_tokenizer_writes_them() -> None:
    automaton = compiler().compile(choice(["ab", "aba", "b"]))
    every = itertools.product((*TEXTS, STOP), repeat=2)
    reach = automaton.reach([MASK, MASK])
    assert [ids for ids in every if automaton.fits(ids, reach, 0, 2)] == [
        (1, STOP),
        (2, 0),
        (2, STOP),
    ]
    assert automaton.longest == 2
    with pytest.raises(OptionError, match="does not keep this choice"):
        compiler().compile(choice(["axb"]))


def test_tokens_of_choices_are_counted_with_shared_beginnings_once() -> None:
    long = compiler().compile(choice(["a" * 8_192, "a" * 8_000]))
    assert len(long.source) == 8_192 + 3 and long.longest == 8_192
    with pytest.raises(OptionError, match="the choices are too large; got 'more than 8192 tokens'"):
        compiler().compile(choice(["a" * 8_000, "b" + "a" * 8_000]))


def test_compiled_once_and_refused_by_name() -> None:
    ours = compiler()
    assert ours.compile(regex("a*")) is ours.compile(regex("a*"))
    assert ours.compile(regex("a*")) is not ours.compile(regex("a*"), may_end=False)
    for options in ([], [""], ["a", 3], "yes", None, b"ab", ["a"] * 1025):
        with pytest.raises(OptionError, match="choices must be texts"):
            choice(options)  # type: ignore[arg-type]
    for pattern in (None, ("ab", "c"), 3):
        with pytest.raises(OptionError, match="the pattern is not a text"):
            regex(pattern)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no JSON"):
        json_schema({"const": object()})
    with pytest.raises(OptionError, match=r"nested too deeply|cannot be read"):
        ours.compile(regex("(" * 4000 + ")" * 4000))


def test_what_is_kept_for_large_automata_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_KEPT_BYTES", 100)
    automaton = over_tokens(compile_language(whole_pattern("[ab]{0,20}")), TokenTrie(TEXTS), [STOP])
    unbounded = over_tokens(compile_language(whole_pattern("[ab]{0,20}")), TokenTrie(TEXTS), [STOP])
    for ids in itertools.product((0, 1, 2, MASK), repeat=4):
        assert automaton.reach(ids) == unbounded.reach(ids)
    tables = (automaton._forward, automaton._backward, automaton._reach)
    assert all(0 < len(table) < 10 for table in tables)


def test_a_compiler_forgets_the_oldest_of_many_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = ConstraintCompiler(lambda: TEXTS, list, str, [STOP])
    sizes = [compiler.compile(regex(f"a{{{count}}}")).size for count in (1, 2, 3)]
    monkeypatch.setattr(constraint, "KEPT_EDGES", sizes[1] + sizes[2])
    last = compiler.compile(regex("a{3}"))
    assert len(compiler._kept) == 2 and compiler.compile(regex("a{3}")) is last
    monkeypatch.setattr(constraint, "KEPT_EDGES", 1)
    assert compiler.compile(regex("a{3}")) is last and len(compiler._kept) == 1
