"""Patterns, numbers and schemas as automata over bytes."""

from __future__ import annotations

import json
import random
import re
from decimal import Decimal
from typing import Any

import jsonschema
import numpy as np
import pytest

from creditdecoding.constraints.automaton import (
    LIMITS,
    STATES,
    ByteAutomaton,
    compile_language,
)
from creditdecoding.constraints.formats import FORMATS
from creditdecoding.constraints.json_schema import schema_language
from creditdecoding.constraints.numerals import Bound, integer, number
from creditdecoding.constraints.regex import found_pattern, whole_pattern
from creditdecoding.constraints.schema_keywords import SAY_VALUES, TYPED
from creditdecoding.errors import OptionError
from tools.random_schemas import FORMAT_CHECKER, random_schema

LETTERS = "abcfoorz01 9-@.\né€😀xyß٣üA_"
PATTERNS = [
    r"\d{3}-\d{4}",
    r"[a-z]+@[a-z]+\.(com|org)",
    r"(foo|ba[rz]){2,3}",
    r"[^@_]\S?é*",
    r"a.c|(?:x|y)?z",
    r"x*|y+?",
    r"^abc$",
    r"[\x00-\uffff]{2}",
    r"[é-ü]+ß?",
    "",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_accepts_what_re_matches(pattern: str) -> None:
    rng = random.Random(0)
    texts = {"".join(rng.choices(LETTERS, k=rng.randint(0, 4))) for _ in range(400)}
    texts |= {"foobar", "123-4567", "foobarbaz", "ab@c.com", "abc", "xz", ""}
    whole = compile_language(whole_pattern(pattern))
    searched = compile_language(found_pattern(pattern))
    assert {t for t in texts if whole.accepts(t.encode())} == {
        t for t in texts if re.fullmatch(pattern, t)
    }
    assert {t for t in texts if searched.accepts(t.encode())} == {
        t for t in texts if re.search(pattern, t)
    }


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("(?=a)b", "look-around"),
        ("[[:alpha:]]+", r"the POSIX class \[:alpha:\]"),
        (r"(a)\1", "a reference to a group"),
        (r"\bfoo", "a word boundary"),
        ("(?i)a", r"the flag \(\?i\)"),
        ("a^b", "an anchor inside"),
        ("(", "cannot be read"),
        ("(a|b)*a(a|b){14}", "too large"),
        ("((a{1000}){1000}){1000}", "too large"),
        ("((){60000}){60000}", "500000 parts"),
        pytest.param("(a?){20000}", "2000000 nodes in the sets", marks=pytest.mark.slow),
        ("(?i:yes)", "flags of a group"),
        ("(?s)(?-s:.)", "flags of a group"),
        ("a" * 20_000, "too long"),
        (r"[^\x00-\U0010ffff]", "no text satisfies"),
    ],
)
def test_patterns_that_are_refused(pattern: str, what: str) -> None:
    with pytest.raises(OptionError, match=what):
        compile_language(whole_pattern(pattern))


@pytest.mark.filterwarnings("error")
def test_a_bracket_in_a_set_is_a_character_without_a_warning() -> None:
    automaton = compile_language(whole_pattern("[[a]"))
    assert automaton.accepts(b"[") and automaton.accepts(b"a") and not automaton.accepts(b"b")


def test_classes_are_those_that_all_dialects_share() -> None:
    no_digit = compile_language(whole_pattern(r"\D"))
    digit = compile_language(whole_pattern(r"\d"))
    arabic = "٣".encode()
    assert not digit.accepts(arabic) and not no_digit.accepts(arabic)
    assert digit.accepts(b"3") and no_digit.accepts("é".encode())


def test_numbers_lie_between_their_bounds() -> None:
    rng = random.Random(0)

    def some(places: int, reach: int = 30) -> Decimal:
        return Decimal(rng.randint(-reach * 10**places, reach * 10**places)) / 10**places

    for _ in range(25):
        low = Bound(some(rng.randint(0, 3)), rng.random() < 0.5)
        high = Bound(low.value + abs(some(rng.randint(0, 2))) + 2, rng.random() < 0.5)
        ends = (rng.choice([low, None]), rng.choice([high, None]))
        for kind, places in ((number, 3), (integer, 0)):
            automaton = compile_language(kind(*ends))
            values = [some(rng.randint(0, places), 70) for _ in range(30)]
            for value in [*values, *(end.value for end in ends if end and places)]:
                inside = all(
                    end is None
                    or (end.value != value and (end.value < value) == is_low)
                    or (end.value == value and not end.open)
                    for end, is_low in zip(ends, (True, False))
                )
                assert automaton.accepts(f"{value:f}".encode()) == inside, (ends, value)


def bytes_to_the_end(automaton: ByteAutomaton) -> Any:
    """How many bytes at least are missing in each state."""
    missing = np.where(automaton.accepting, 0, automaton.next.size)
    while True:
        shorter = np.minimum(missing, 1 + missing[automaton.next].min(1))
        if (shorter == missing).all():
            return missing
        missing = shorter


def walk(automaton: ByteAutomaton, rng: random.Random) -> str:
    """A random text of the language; beyond 60 bytes it takes the shortest way to an end."""
    missing = bytes_to_the_end(automaton)
    state, text = 0, b""
    while True:
        steps = np.flatnonzero(automaton.next[state] != automaton.dead)
        if automaton.accepting[state] and (not len(steps) or rng.random() < 0.5):
            return text.decode()
        if len(text) > 60 and not automaton.accepting[state]:
            steps = steps[missing[automaton.next[state, steps]] < missing[state]]
        byte = int(rng.choice(steps.tolist()))
        text += bytes([byte])
        state = int(automaton.next[state, byte])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_texts_of_random_schemas_are_valid(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(20):
        schema = random_schema(rng)
        automaton = compile_language(schema_language(schema))
        for _ in range(2):
            answer = json.loads(walk(automaton, rng))
            jsonschema.validate(answer, schema, format_checker=FORMAT_CHECKER)


def keywords_of(value: Any) -> set[Any]:
    """Every name in a schema, and every format."""
    if isinstance(value, list):
        return set().union(*map(keywords_of, value))
    inner = value if isinstance(value, dict) else {}
    formats = {inner["format"]} if isinstance(inner.get("format"), str) else set()
    return set(inner) | formats | set().union(*map(keywords_of, inner.values()))


def test_random_schemas_have_every_keyword_and_format() -> None:
    rng = random.Random(0)
    written = keywords_of([random_schema(rng) for _ in range(300)])
    assert {*SAY_VALUES, *TYPED, *FORMATS, "$defs"} <= written


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("a-1.example.org", True),
        ("a." * 126 + "a", True),
        ("a." * 127 + "a", False),
        ("-a.org", False),
        ("a-.org", False),
        ("a" * 64, False),
        ("a..b", False),
    ],
)
def test_host_names_are_checked(text: str, valid: bool) -> None:
    assert FORMAT_CHECKER.conforms(text, "hostname") is valid


def accepts(schema: Any, value: Any) -> bool:
    text = json.dumps(value, ensure_ascii=False)
    return compile_language(schema_language(schema)).accepts(text.encode())


TREE = {"$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}}}


@pytest.mark.slow
def test_schemas_with_references_and_options() -> None:
    pet = {
        "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
        "$defs": {
            name: {
                "type": "object",
                "properties": {"kind": {"const": name}, "age": {"type": "integer"}},
                "required": ["kind"],
            }
            for name in ("cat", "dog")
        },
    }
    assert accepts(pet, {"kind": "cat", "age": 3}) and not accepts(pet, {"kind": "cow", "age": 3})
    pair = {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": False}
    assert accepts(pair, [None, True]) and not accepts(pair, [None])
    both = {"allOf": [{"type": "string", "minLength": 2}, {"pattern": "^a+$", "maxLength": 3}]}
    assert [accepts(both, "a" * n) for n in range(5)] == [False, False, True, True, False]
    small = {"type": "integer", "enum": [1, 5, 9, "x"], "minimum": 4}
    assert [accepts(small, n) for n in (1, 5, 9, "x")] == [False, True, True, False]
    one = {"const": 1, "enum": [True, 1]}
    assert accepts(one, 1) and not accepts(one, True)
    apart = {"oneOf": [{"const": True}, {"const": 1}, {"$ref": "#/$defs/a~1b"}]}
    assert accepts({**apart, "$defs": {"a/b": {"const": None}}}, 1)
    mixed = {"oneOf": [{"enum": ["z", None]}, {"type": "integer", "maximum": 3}]}
    assert accepts(mixed, "z") and accepts(mixed, None) and accepts(mixed, 3)
    long = {"type": "string", "maxLength": 100_000}
    assert accepts(long, "é" * 256) and not accepts(long, "é" * 257)


def twins(letter: str, levels: int = 30) -> dict[str, Any]:
    """Schemas of which each refers twice to the next one."""
    both = [
        {"properties": {key: {"$ref": f"#/$defs/{letter}{i + 1}"} for key in "xy"}}
        for i in range(levels)
    ]
    kind = {"type": "object", "required": ["x", "y"]}
    names = {f"{letter}{i}": {**kind, **schema} for i, schema in enumerate(both)}
    return {**names, f"{letter}{levels}": {"type": "null"}}


TWINS: dict[str, Any] = {"$defs": {**twins("a"), **twins("b")}}
NULL = {"type": "null"}


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({**TWINS, "$ref": "#/$defs/a0"}, "2000 schemas"),
        ({**TWINS, "oneOf": [{"$ref": "#/$defs/a0"}, {"$ref": "#/$defs/b0"}]}, "2000 schemas"),
        ({"oneOf": [NULL] * 9_000}, "2000 schemas"),
        ({"oneOf": [{"const": i} for i in range(500)]}, "100000 pairs"),
        ({"enum": ["a" * 100_000]}, "100000 characters"),
    ],
)
def test_the_work_of_a_schema_is_bounded(schema: Any, what: str) -> None:
    with pytest.raises(OptionError, match=f"more than {what}"):
        compile_language(schema_language(schema))


def test_an_error_names_the_innermost_schema_whose_keywords_exclude_each_other() -> None:
    inner = {"allOf": [{"type": "string", "maxLength": 2}, {"pattern": "^abc$"}]}
    schema = {"type": "object", "properties": {"p": inner}, "anyOf": [{"properties": {"p": inner}}]}
    with pytest.raises(OptionError) as refused:
        compile_language(schema_language(schema))
    assert str(refused.value) == (
        "no text satisfies the constraint: the keywords of the schema at "
        f"{'$.anyOf.0.properties.p'!r} exclude each other. Check bounds, lengths and patterns."
    )


def test_patterns_that_must_hold_together_share_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = schema_language({"allOf": [{"pattern": "^a{9}$"}] * 9})
    compile_language(schema)
    monkeypatch.setitem(LIMITS, STATES, 100)
    with pytest.raises(OptionError, match="more than 100 states of patterns"):
        compile_language(schema)


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"type": "object", "required": True}, "required that is not a list"),
        ({"properties": {"a": NULL}, "required": None}, "required that is not a list"),
        ({"properties": {"a": NULL}, "required": [["a"]]}, "not a list of names"),
        ({"oneOf": [{"type": "object", "required": 1}] * 2}, "required that is not a list"),
        ({"type": "string", "maxLength": 1e999}, "maxLength that is no count"),
        ({"type": "string", "minLength": None}, "minLength that is no count"),
        ({"type": "integer", "minimum": None}, "minimum that is not a number"),
        ({"const": 1, "enum": 5}, "enum that is not a list"),
        ({"const": "a", "enum": "abc"}, "enum that is not a list"),
        ({"const": True, "enum": [1]}, "no text satisfies"),
        ({"$ref": "#/$defs/a/0", "$defs": {"a": [NULL]}}, "refers to nothing"),
        ({"oneOf": [{"$ref": "#/$defs/a/0"}, NULL], "$defs": {"a": [NULL]}}, "refers to nothing"),
        ({"$ref": "#anchor"}, "refers to an anchor"),
        ({"oneOf": [{"const": 1.0}, {"const": 1}]}, "may overlap"),
    ],
)
def test_keywords_with_wrong_values(schema: Any, what: str) -> None:
    with pytest.raises(OptionError, match=what):
        compile_language(schema_language(schema))


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({}, r"'\$' allows any value"),
        ({"type": "object"}, "free map"),
        ({**TREE, "$ref": "#/$defs/n"}, r"refers to itself through '#/\$defs/n'"),
        ({"$ref": "https://x.org/s"}, "another document"),
        ({"$ref": "#/$defs/none"}, "refers to nothing"),
        ({"type": "array"}, "what its items are"),
        ({"type": "string", "format": "iri"}, "unsupported format 'iri'"),
        ({"type": "number", "multipleOf": 3}, "keyword 'multipleOf'"),
        ({"type": "array", "items": {"type": "null"}, "uniqueItems": True}, "'uniqueItems'"),
        ({"type": "string", "pattern": "(?=a)"}, r"pattern at \$: .*look-around"),
        (
            {"properties": {"a": {"not": {}}}},
            r"'\$.properties.a' has the unsupported keyword 'not'",
        ),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "may overlap"),
        ({"oneOf": [{"enum": ["z", 2]}, {"type": "integer"}]}, "may overlap"),
        ({"oneOf": [{"const": [1, {"a": 10**400}]}, {"type": "array"}]}, "may overlap"),
        ({"type": "object", "properties": {}, "required": ["a"]}, "does not declare"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "minimum above"),
        ({"type": "float"}, "no such type"),
        ({"const": float("nan")}, "no JSON"),
        ({"const": "\ud800"}, "no JSON"),
    ],
)
def test_schemas_that_are_refused(schema: Any, what: str) -> None:
    with pytest.raises(OptionError, match=what):
        compile_language(schema_language(schema))
