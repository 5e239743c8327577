"""Verdicts on code: an answer never sees what it is compared with, cannot claim to be right, and is
judged by plain values.

For all judges that run an answer: HumanEval (tests are code), LiveCodeBench (functions and
programs), pocket's `program`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import Item, Task, distinct_items
from creditdecoding.tasks.benchmarks.livecodebench import same_value
from creditdecoding.tasks.sandbox import passes_tests, returns_expected
from creditdecoding.tasks.sandbox_child import channel, values
from creditdecoding.tasks.synthetic import program

DATA = Path(__file__).parents[1] / "data"


def first(spec: str, index: int = 0) -> tuple[Task, Item]:
    """A task of code and one of its items."""
    family = load_tasks(spec)[0]
    return family, distinct_items(family, "test", 0, 0 if family.fixed_items else 3)[index]


def judged() -> dict[str, tuple[Task, Item, str]]:
    """Every judge that calls a function: its family, an item, the function's name."""
    human, doubled = first(f"humaneval={DATA / 'humaneval.jsonl'}")
    contest, most = first(f"livecodebench={DATA / 'livecodebench.jsonl'}", 1)
    pocket, item = first("program")
    return {
        "humaneval": (human, doubled, "doubled"),
        "livecodebench": (contest, most, "most"),
        "program": (pocket, item, item.gold[0]),
    }


each_judge = pytest.mark.parametrize("name", ["humaneval", "livecodebench", "program"])

CHEATS = {
    "equals everything": """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
    def __iter__(self): return iter([])
    def __getattr__(self, name): return self
def {name}(*a): return Any()
""",
    "a list that equals everything": """
class Any(list):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = None
def {name}(*a): return Any([99999])
""",
    "a number that equals everything": """
class Any(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def {name}(*a): return Any(99999)
""",
    "frames": """
import sys
def {name}(*a):
    frame = sys._getframe()
    while frame:
        for values in (frame.f_globals, frame.f_locals):
            for key, value in list(values.items()):
                if 'wanted' in key or 'expected' in key or 'word' in key:
                    return value
        frame = frame.f_back
""",
    "every object": """
import gc, sys
sys.stdout.write('right\\n')
def {name}(*a):
    for found in gc.get_objects():
        if isinstance(found, dict) and 'check' in found:
            found['check'] = lambda candidate: None
    raise SystemExit(0)
""",
    "an exit": "import os\ndef {name}(*a):\n    os._exit(0)",
    "an exit at once": "import os\nos._exit(0)",
    "an exit of Python's": "def {name}(*a):\n    raise SystemExit(0)",
    "an exit of Python's at once": "raise SystemExit(0)",
    "an interrupt": "def {name}(*a):\n    raise KeyboardInterrupt",
    "an error": "def {name}(*a):\n    raise AssertionError",
    "words on every file": """
import os
def {name}(*a):
    for file in range(64):
        for line in (b'["right"]\\n', b'["returned", true]\\n', b'["ready"]\\n'):
            try:
                os.write(file, line)
            except OSError:
                pass
    os._exit(0)
""",
    "nonsense": """
import os
def {name}(*a):
    for file in range(3, 64):
        for line in (b'[[[[[', b'{{}}\\n', b'["returned", {{"set": [[]]}}]\\n', b'["raised", 1, 2]\\n', b'[null]\\n'):
            try:
                os.write(file, line)
            except OSError:
                pass
""",
    "built-in functions": """
import builtins, json
builtins.all = lambda *a: True
builtins.len = lambda *a: 0
builtins.isinstance = lambda *a: True
json.dumps = lambda *a, **k: '["right"]'
def {name}(*a): return []
""",
    "the tests": "def check(*a): pass\ndef {name}(*a): return []",
    "many processes": "import os\nos.fork()\ndef {name}(*a): return None",
    "no function": "x = 1",
    "nothing that is Python": "def {name}(",
    "an endless iterator": "def {name}(*a):\n    while True:\n        yield 1",
    "a depth without end": "def {name}(*a):\n    x = []\n    x.append(x)\n    return x",
    "a deep list": "def {name}(*a):\n    x = []\n    for _ in range(900):\n        x = [x]\n    return x",
    "a flood": "def {name}(*a):\n    return 'x' * (1 << 22)",
}


@pytest.mark.slow
@each_judge
def test_no_cheat_is_right(name: str) -> None:
    family, item, function = judged()[name]
    assert family.score(item.answer, item)
    accepted = [
        cheat
        for cheat, code in CHEATS.items()
        if family.score(f"```python\n{code.format(name=function)}\n```", item)
    ]
    assert accepted == []


SPY = """
import gc, sys
def f(x):
    seen = [repr(found)[:2000] for found in gc.get_objects() if type(found) in (dict, list, tuple)]
    frame = sys._getframe()
    while frame:
        seen += [repr(frame.f_locals), repr(frame.f_code.co_consts)]
        frame = frame.f_back
    return ''.join(seen)
"""


def test_an_answer_finds_nothing_of_the_tests_in_its_process() -> None:
    """The tests look for what they compare with in all that an answer can find."""
    for secret, right in (("'7654321987'[::-1]", True), ("'1234' + '56' + '7' * 3", False)):
        tests = f"seen = candidate('123456777')\n    assert len(seen) > 1000 and ({secret} not in seen) and 7891234567"
        assert passes_tests(SPY, "f", f"def check(candidate):\n    {tests}") is right


def test_nothing_that_is_wanted_is_sent_to_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    send = channel.Channel.send

    def noted(self: channel.Channel, *message: object) -> None:
        sent.append(message)
        send(self, *message)

    monkeypatch.setattr(channel.Channel, "send", noted)
    assert returns_expected("def f(x):\n    return x + 1", "f", [([1], 2), ([5], 6)])
    assert sent == [
        ("def f(x):\n    return x + 1", "f"),
        ("call", [1], {"dict": []}),
        ("call", [5], {"dict": []}),
    ]


@each_judge
def test_a_usage_example_in_a_second_block_changes_nothing(name: str) -> None:
    family, item, function = judged()[name]
    bare = item.answer.removeprefix("```python\n").removesuffix("```")
    example = f"```python\nprint({function}([1, 2]))\n```"
    first_try = f"```python\ndef {function}(*a):\n    return 'wrong'\n```"
    assert family.score(
        f"```python\n{bare}\n```\nFor example:\n{example}\nIt prints:\n```\n[2, 4]\n```", item
    )
    assert family.score(f"{first_try}\nNo, rather:\n```python\n{bare}\n```\n{example}", item)
    assert not family.score(f"```python\n{bare}\n```\nNo, rather:\n{first_try}", item)


def test_a_contest_program_with_an_example_of_its_output() -> None:
    family, item = first(f"livecodebench={DATA / 'livecodebench.jsonl'}")
    text = "```python\na, b = map(int, input().split())\nprint(a + b)\n```\nFor 1 2 it does\n```python\nprint(3)\n```"
    assert family.score(text, item)
    assert not family.score("```python\nprint(int(input().split()[0]) * 3)\n```", item)


HONEST = [
    ("def f(xs):\n    xs.sort()\n    return xs", "assert f([3, 1, 2]) == [1, 2, 3]"),
    (
        "def f(xs):\n    xs.sort()",
        "xs = [3, [1], 2][::2]\n    ys = xs\n    f(xs)\n    assert ys == [2, 3] and ys is xs",
    ),
    (
        "def f(d, s):\n    d['a'].append(1); s.add(2)",
        "d, s = {'a': []}, {1}\n    f(d, s=s)\n    assert d == {'a': [1]} and s == {1, 2}",
    ),
    (
        "def f(n):\n    return (x * x for x in range(n))",
        "assert list(f(4)) == [0, 1, 4, 9] and sorted(f(2)) == [0, 1] and f(2) != [0, 1]",
    ),
    (
        "def f():\n    while True:\n        yield 1",
        "import itertools\n    assert list(itertools.islice(f(), 3)) == [1, 1, 1] and next(f()) == 1",
    ),
    ("def f(n):\n    return map(str, range(n))", "assert [*f(2)] == ['0', '1']"),
    ("def f(n):\n    return 2 ** n", "assert f(100000) == 1 << 100000"),
    ("def f():\n    return 0.1 + 0.2", "assert abs(f() - 0.3) < 1e-9"),
    (
        "def f(x):\n    return x",
        "assert f(float('inf')) == float('inf') and f(float('nan')) != 1 and f(1j) == 1j and f(b'a') == b'a'",
    ),
    (
        "def f(x):\n    return x",
        "assert f({(1, 2): {3}, None: frozenset('a')}) == {(1, 2): {3}, None: frozenset('a')} and f('\\ud800') == '\\ud800'",
    ),
    (
        "def f(x):\n    return x",
        "assert f(True) is True and f(None) is None and type(f((1,))) is tuple and type(f(1.0)) is float",
    ),
    (
        "from collections import Counter, OrderedDict, namedtuple\ndef f(x):\n    return Counter(x)",
        "assert f('aab') == {'a': 2, 'b': 1}",
    ),
    (
        "from enum import IntEnum\nclass A(IntEnum):\n    B = 3\ndef f():\n    return A.B",
        "assert f() == 3",
    ),
    (
        "def f(x):\n    if x < 0:\n        raise ValueError('negative')\n    return x",
        "try:\n        f(-1)\n    except ValueError as e:\n        assert 'negative' in str(e)\n    else:\n        assert False",
    ),
    (
        "class Odd(KeyError):\n    pass\ndef f():\n    raise Odd('key')",
        "try:\n        f()\n    except LookupError as e:\n        assert e.args == ('key',)\n    else:\n        assert False",
    ),
    (
        "class Own(Exception):\n    pass\ndef f():\n    raise Own(1)",
        "try:\n        f()\n    except Exception as e:\n        assert 'Own' in str(e)\n    else:\n        assert False",
    ),
    (
        "def f():\n    return bytes([255]).decode()",
        "try:\n        f()\n    except UnicodeDecodeError:\n        pass\n    else:\n        assert False",
    ),
    (
        "def f(n):\n    print('some words')\n    def g(k):\n        return k and k + g(k - 1)\n    return g(n)",
        "assert f(3) == 6 and f(n=2) == 3",
    ),
    (
        "print('hello')\ndef f():\n    return input.__name__\nif __name__ == '__main__':\n    f(input())",
        "assert f() == 'input'",
    ),
    (
        "async def g():\n    return 1\nimport asyncio\ndef f():\n    return asyncio.run(g())",
        "assert f() == 1",
    ),
    (
        "seen = []\ndef f(x):\n    seen.append(x)\n    return len(seen)",
        "assert [f(0), f(0)] == [1, 2]",
    ),
]
DISHONEST = [
    ("def f(xs):\n    xs.clear()\n    return []", "xs = [2, 1]\n    assert f(xs) == sorted(xs)"),
    ("def f(xs):\n    return None", "assert f([1]) == [1]"),
    ("def f(x):\n    return [x]", "assert f(1) == (1,)"),
    ("def f(x):\n    return str(x)", "assert f(1) == 1"),
    ("def f():\n    raise TypeError", "try:\n        f()\n    except ValueError:\n        pass"),
    (
        "import os\ndef f(x):\n    os._exit(0)",
        "try:\n        assert f(1) == 1\n    except:\n        pass",
    ),
    ("def f(x):\n    raise SystemExit(0)", "f(1)"),
    (
        "def f(x):\n    raise SystemExit(0)",
        "try:\n        f(1)\n    except BaseException:\n        pass",
    ),
    ("def f(x):\n    return 1", "assert f(lambda: 1) == 1"),
    ("def f(x):\n    return f", "assert f(1)(1) == 1"),
]


@pytest.mark.slow
def test_tests_judge_as_if_they_called_the_function_themselves() -> None:
    for code, tests in HONEST:
        assert passes_tests(code, "f", f"def check(candidate):\n    {tests}"), (code, tests)
    for code, tests in DISHONEST:
        assert not passes_tests(code, "f", f"def check(candidate):\n    {tests}"), (code, tests)


def test_helpers_in_the_prompt_are_the_tests_own(tmp_path: Path) -> None:
    """Tests that call a helper of the prompt get the prompt's, whatever an answer makes of it."""
    prompt = 'def twice(x):\n    return 2 * x\n\n\ndef half(x):\n    """ So that twice(half(x)) == x. """\n'
    record = {"prompt": prompt, "entry_point": "half", "canonical_solution": "    return x / 2\n"}
    record["test"] = (
        "def check(candidate):\n    assert all(twice(candidate(x)) == x for x in range(5)) and half(2) == 1\n"
    )
    (tmp_path / "h.jsonl").write_text(json.dumps(record))
    family, item = first(f"humaneval={tmp_path / 'h.jsonl'}")
    assert family.score(item.answer, item)
    assert not family.score(
        "```python\ndef twice(x):\n    return x\ndef half(x):\n    return x\n```", item
    )


def test_one_process_an_answer_and_a_new_object_of_solution() -> None:
    code = "class Solution:\n    def __init__(self):\n        self.calls = 0\n    def f(self):\n        self.calls += 1\n        return self.calls"
    assert returns_expected(code, "Solution.f", [([], 1), ([], 2)])
    assert returns_expected("def f():\n    return 1", "Solution.f", [([], 1)])
    assert not returns_expected("class Solution:\n    pass", "Solution.f", [([], 1)])


@pytest.mark.parametrize(
    ("value", "expected", "right"),
    [
        ((1, (2, 3)), [1, [2, 3]], True),
        ([1.0000000001, [0.5]], [1.0, [0.5]], True),
        ([1.1], [1.0], False),
        ({1: "a", "b": (2,)}, {"1": "a", "b": [2]}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"1": 1, 1: 1}, {"1": 1}, False),
        ({1}, [1], False),
        ("1", 1, False),
        (10**40, 10**40, True),
        (10**40, 10.0**40, True),
        (None, None, True),
        (None, False, False),
        ("tuple", ["t"], False),
        ([], {}, False),
    ],
)
def test_values_of_contests_are_compared_as_json(value: Any, expected: object, right: bool) -> None:
    assert same_value(values.encode(value), expected) is right


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"a": 1},
        {"set": [[]]},
        {"int": 3},
        {"int": "x"},
        {"dict": [1]},
        {"iterator": []},
        {"tuple": 1},
        {"set": [], "int": "1"},
    ],
)
def test_what_stands_for_no_value_is_refused(tree: object) -> None:
    with pytest.raises(values.MalformedError):
        values.decode([tree])


def test_an_object_goes_as_the_name_of_its_type_and_equals_nothing() -> None:
    thing = values.decode(values.encode(object(), keep=lambda iterator: 0))
    assert repr(thing) == "<object>" and thing != thing and hash(thing)
    with pytest.raises(TypeError, match="a function cannot be sent"):
        values.encode(lambda: 1)


def test_a_program_is_found_in_a_chat() -> None:
    _, item = first("program")
    assert program.score(
        f"Here it is:\n```python\n{item.answer}\n```\nUse it so:\n```python\nprint({item.gold[0]}([1]))\n```",
        item,
    )
