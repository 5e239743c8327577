"""Chat templates: the text that transformers renders, and an end to those that loop for ever or
fill memory.
"""

from __future__ import annotations

import threading
from typing import Any

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from creditdecoding.text.chat_template import LimitError, render, render_to_continue
from tools.checkpoints import templates

SHORT = [{"role": "user", "content": "Hi"}]
LONG = [
    {"role": "system", "content": " Be kind. "},
    {"role": "user", "content": "1 < 2 & {{ x }} {% if %}"},
    {"role": "assistant", "content": "<think>\nwell\n</think>\n\nYes"},
    {"role": "user", "content": "Grüße\n\n\U0001f600 "},
]
SPECIAL = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
OTHERS = {
    "generation tag": (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    ),
    "loop variables": (
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{{ "
        "loop.nextitem }}{% endfor %}"
    ),
    "loop controls": (
        "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }}{% "
        "endfor %}"
    ),
    "macros": (
        "{% macro turn(m, end='.') %}[{{ m.role ~ ':' ~ m.content }}]{{ end }}{% endmacro %}{{ "
        "turn(messages[0]) }}"
    ),
    "filters": (
        "{{ messages | map(attribute='content') | join('|') }}{{ messages | tojson(indent=2) "
        "}}{{ messages | length }}"
    ),
    "tests": (
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ x is defined }}"
    ),
    "texts": (
        "{{ messages[-1].content.strip().split('\n')[0].upper().replace('E', 'ee') }}{{ "
        "'%s-%d' % ('a', 3) }}"
    ),
    "format": "{{ '{}:{:>4}'.format('a', 'b') }}{{ '%s.' | format('x') }}",
    "namespaces": (
        "{% set ns = namespace(n=0, t='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% "
        "endfor %}{{ ns.n }}"
    ),
    "blocks": "{% set x %}a{{ 1 + 1 }}{% endset %}{{ x * 3 }}{{ dict(a=1).items() | list }}",
    "dictionaries": (
        "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ {'a': (1, 2)} }}"
    ),
    "recursion": (
        "{% for m in [[1, [2]], 3] recursive %}{% if m is iterable %}{{ loop(m) }}{% else %}{{ "
        "m }}{% endif %}{% endfor %}"
    ),
    "conditions": (
        "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% else "
        "%}none{% endfor %}"
    ),
}
RELEASED = {
    name: getattr(templates, name) for name in ("LLADA", "LING", "DREAM", "QWEN25", "QWEN3")
}


@pytest.mark.parametrize("name", [*RELEASED, *OTHERS])
def test_the_text_is_that_of_transformers(name: str) -> None:
    source = {**RELEASED, **OTHERS}[name]
    for messages in (SHORT, LONG):
        for start in (False, True):
            ours = render(source, messages, **SPECIAL, add_generation_prompt=start)
            (expected,), _ = render_jinja_template(
                [messages], chat_template=source, add_generation_prompt=start, **SPECIAL
            )
            assert ours == expected


@pytest.mark.parametrize("name", [*RELEASED, "generation tag", "filters"])
def test_a_last_message_is_continued_as_by_transformers(name: str) -> None:
    source = {**RELEASED, **OTHERS}[name]
    messages = [*LONG, {"role": "assistant", "content": "It is the user's "}]
    (expected,), _ = render_jinja_template(
        [messages], chat_template=source, continue_final_message=True, **SPECIAL
    )
    assert render_to_continue(source, messages, **SPECIAL) == expected


def test_a_last_message_that_a_template_leaves_out_is_not_continued() -> None:
    with pytest.raises(jinja2.TemplateError, match="leaves out"):
        render_to_continue("{{ messages[0].content }}", LONG)


ENDLESS = {
    "nested loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
    "loops with their length": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ loop.length }}{% endfor %}{% "
        "endfor %}"
    ),
    "a long range": "{% for a in range(10**12) %}{% endfor %}",
    "a loop over a generator": (
        "{% for a in range(99999) %}{% for b in range(99999) | map('string') %}{% endfor %}{% "
        "endfor %}"
    ),
    "branching recursion": (
        "{% for a in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}"
    ),
    "branching macros": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "words in a loop": "{% for a in range(99999) %}" + "word " * 999 + "{% endfor %}",
    "words in a macro": "{% macro f() %}{% for a in range(99999) %}"
    + "word " * 999
    + "{% endfor %}{% endmacro %}{{ f() | length }}",
    "a constant product": "{{ 'a' * 10**10 }}",
    "a product": "{% set n = 99999 %}{{ ('a' * n * n) | length }}",
    "a list of lists": "{% set n = 9999 %}{{ ([0] * n * n) | length }}",
    "doubling with +": (
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x "
        "%}{% endfor %}"
    ),
    "doubling with ~": (
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x "
        "%}{% endfor %}"
    ),
    "doubling lists": (
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] "
        "%}{% endfor %}{{ ns.x }}"
    ),
    "doubling tuples": (
        "{% set ns = namespace(x=1) %}{% for i in range(99) %}{% set ns.x = (ns.x, ns.x) %}{% "
        "endfor %}{{ ns.x == 1 }}"
    ),
    "doubling dictionaries": (
        "{% set ns = namespace(x=1) %}{% for i in range(99) %}{% set ns.x = dict(a=ns.x, "
        "b=ns.x) %}{% endfor %}"
    ),
    "doubling by replacement": (
        "{% set ns = namespace(x='aa') %}{% for i in range(99) %}{% set ns.x = "
        "ns.x.replace('a', 'aa') %}{% endfor %}"
    ),
    "doubling by joins": (
        "{% set ns = namespace(x='aa') %}{% for i in range(99) %}{% set ns.x = ns.x.join(ns.x) "
        "%}{% endfor %}"
    ),
    "doubling by a filter": (
        "{% set ns = namespace(x='aa') %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] | "
        "join(ns.x) %}{% endfor %}"
    ),
    "doubling by blocks": (
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x %}{{ ns.x }}{{ "
        "ns.x }}{% endset %}{% endfor %}"
    ),
    "squares": (
        "{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% "
        "endfor %}{{ ns.x > 1 }}"
    ),
    "powers": "{{ 9 ** 9999 }}",
    "padding": "{{ 'a'.ljust(10**10) }}",
    "a wide format": "{{ '{:>9999999999}'.format('a') }}",
    "a wide nested format": "{{ '{:{}99999999}'.format('a', 9) }}",
    "a wide percent": "{{ '%9999999999d' % 1 }}",
    "a starred percent": "{{ '%*d' % (9999999999, 1) }}",
    "a wide format filter": "{{ '%9999999999d' | format(1) }}",
    "a wide indent": "{{ 'a\n' | indent(10**10) }}",
    "a wide json": "{{ [[1]] | tojson(indent=10**10) }}",
    "tabs": "{{ '\t'.expandtabs(10**10) }}",
    "translation": "{{ 'aaa'.translate({97: 'b' * 999}) }}",
    "centred": "{{ 'a' | center(10**10) }}",
    "many words": "{{ lipsum(n=10**9) }}",
    "many batches": "{{ [1] | batch(10**10, 0) | list }}",
    "many slices": "{{ [1] | slice(10**10) | list }}",
    "deep source": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
    "long source": "a" * 2**21,
    "an underscore": "{% set ns = namespace() %}{% set ns._x = 1 %}",
}


def outcome(source: str) -> BaseException | None:
    """What rendering raises."""
    try:
        render(source, SHORT)
    except Exception as error:
        return error
    return None


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ENDLESS))
def test_a_template_without_end_is_ended(name: str) -> None:
    error = outcome(ENDLESS[name])
    assert isinstance(
        error, (jinja2.TemplateError, RecursionError, OverflowError, TypeError, AttributeError)
    ), error


def test_the_limit_holds_in_any_thread() -> None:
    errors: list[Any] = []
    threads = [
        threading.Thread(target=lambda: errors.append(outcome(ENDLESS["nested loops"])))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(error) for error in errors] == [LimitError] * 3


def test_long_conversations_fit() -> None:
    messages = [{"role": role, "content": "word " * 2000} for role in ("user", "assistant") * 200]
    for source in RELEASED.values():
        assert len(render(source, messages, **SPECIAL, add_generation_prompt=True)) > 3_000_000
