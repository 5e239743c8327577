"""The generated tasks: enough items, fair scorers, splits by structure."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.tasks import GENERATED_TASKS, load_tasks
from creditdecoding.tasks.base import (
    SPLITS,
    Item,
    Task,
    distinct_items,
    final_answer,
    generate_items,
    items_digest,
    same_answer,
)
from creditdecoding.tasks.sandbox import returns_expected
from creditdecoding.tasks.synthetic import SYNTHETIC_TASKS, program, words
from creditdecoding.tasks.synthetic.facts import COUNTRIES
from creditdecoding.tasks.synthetic.lists import LIST_TASKS
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.train.options import TrainConfig
from creditdecoding.train.rows import draw_items
from creditdecoding.train.tokenizer import task_tokenizer

FREE = ("other", "program", "wordings")
"""Tasks whose right answers need no line with the final answer, or not always."""
ONE_OF_THE_LISTS = "list-insert-random"  # the ten are made and scored by the same lines
FAMILIES = {
    name: task
    for name, task in GENERATED_TASKS.items()
    if name not in LIST_TASKS or name == ONE_OF_THE_LISTS
}
each_family = pytest.mark.parametrize("family", list(FAMILIES.values()), ids=list(FAMILIES))
PACKAGE = Path(sys.modules["creditdecoding"].__file__ or "").parent


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The tokenizer that training makes for these families."""
    return task_tokenizer(
        list(SYNTHETIC_TASKS.values()), TrainConfig().vocabulary, tmp_path_factory.mktemp("words")
    )


class ItemsByFamily(dict[str, list[Item]]):
    """The items of a family, drawn when they are first read: a worker draws what its tests need."""

    def __init__(self, draw: Callable[[Task], list[Item]]) -> None:
        super().__init__()
        self._draw = draw

    def __missing__(self, name: str) -> list[Item]:
        self[name] = self._draw(GENERATED_TASKS[name])
        return self[name]


@pytest.fixture(scope="module")
def trained() -> dict[str, list[Item]]:
    """3,000 training items a family."""
    return ItemsByFamily(
        lambda family: list(itertools.islice(generate_items(family, "train", 0), 3000))
    )


@pytest.fixture(scope="module")
def tested() -> dict[str, list[Item]]:
    """200 distinct test items a family."""
    return ItemsByFamily(lambda family: distinct_items(family, "test", 0, 200))


def in_process(code: str, function: str, cases: Iterable[tuple[Sequence[Any], object]]) -> bool:
    """As `gives`, for code of our own: quick, without limits."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(code, scope)
        return all(scope[function](*arguments) == expected for arguments, expected in cases)
    except (Exception, SystemExit):
        return False


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores programs in this process."""
    monkeypatch.setattr(program, "returns_expected", in_process)


def test_there_are_the_eight_families() -> None:
    assert list(SYNTHETIC_TASKS) == [
        "facts",
        "span",
        "discrete",
        "rule",
        "program",
        "output",
        "arithmetic",
        "algebra",
    ]
    assert all(name == family.name and family.title for name, family in SYNTHETIC_TASKS.items())
    assert load_tasks("pocket") == list(SYNTHETIC_TASKS.values())
    assert load_tasks("span, facts,span") == [SYNTHETIC_TASKS["span"], SYNTHETIC_TASKS["facts"]]
    with pytest.raises(OptionError, match=r"algebr.*algebra"):
        load_tasks("algebr")


@each_family
def test_enough_items_none_twice(family: Task, tested: dict[str, list[Item]]) -> None:
    for split, drawn, count in (
        ("test", tested[family.name], 200),
        ("dev", distinct_items(family, "dev", 0, 60), 60),
    ):
        assert len({item.key for item in drawn}) == len(drawn) == count
        assert all(item.split == split and item.task == family.name for item in drawn)
        assert len({item.prompt for item in drawn}) >= (
            0.9 * count if family.name == "other" else count
        )


@each_family
def test_the_reference_answer_is_right(family: Task, tested: dict[str, list[Item]]) -> None:
    for item in tested[family.name][: 12 if family.name in FREE else 60]:
        assert family.score(item.answer, item), item


@each_family
def test_every_reference_program_is_right(
    family: Task, tested: dict[str, list[Item]], quick: None
) -> None:
    """As above over all items, program by program in this process."""
    assert [item for item in tested[family.name] if not family.score(item.answer, item)] == []


@each_family
def test_another_items_answer_is_wrong(
    family: Task, tested: dict[str, list[Item]], quick: None
) -> None:
    listed = tested[family.name]
    for item, other in itertools.pairwise(listed):
        if other.gold != item.gold:
            assert not family.score(other.answer, item), (item, other)


@each_family
def test_nothing_is_wrong(family: Task, tested: dict[str, list[Item]]) -> None:
    item = tested[family.name][0]
    for text in ("", " \n", "Answer:", "Answer: ", "I do not know.", item.prompt, "\ufffd"):
        assert not family.score(text, item), text


@each_family
def test_a_cut_answer_is_wrong(family: Task, tested: dict[str, list[Item]], quick: None) -> None:
    """Wherever it is cut."""
    for item in tested[family.name][: 4 if family.name in FREE else 30]:
        for end in range(len(item.answer)):
            assert not family.score(item.answer[:end], item), item.answer[:end]


@each_family
def test_a_wrong_last_line_is_wrong_and_what_follows_it_does_not_matter(
    family: Task, tested: dict[str, list[Item]], quick: None
) -> None:
    item = tested[family.name][1]
    assert family.score(item.answer + "\n", item)
    if family.name not in FREE:
        assert family.score(
            item.answer.upper().replace("ANSWER:", "Answer:") + " .\n\nThat is all.", item
        )
        assert not family.score(item.answer + "\nAnswer: 1234567", item)
        assert not family.score(item.answer + " and more", item)


@each_family
def test_no_test_structure_is_trained_on(
    family: Task, trained: dict[str, list[Item]], tested: dict[str, list[Item]]
) -> None:
    keys, prompts = (
        {getattr(item, name) for item in trained[family.name]} for name in ("key", "prompt")
    )
    held_out = tested[family.name] + distinct_items(family, "dev", 0, 60)
    assert not keys & {item.key for item in held_out}
    assert not prompts & {item.prompt for item in held_out}
    assert not {item.key for item in tested[family.name]} & {
        item.key for item in distinct_items(family, "dev", 0, 60)
    }


def test_training_rows_are_drawn_from_the_training_split() -> None:
    drawn = draw_items(
        list(SYNTHETIC_TASKS.values()),
        4 * sum(family.train_weight for family in SYNTHETIC_TASKS.values()),
        random.Random(0),
    )
    assert {item.split for item in drawn} == {"train"}
    assert Counter(item.task for item in drawn) == {
        name: 4 * family.train_weight for name, family in SYNTHETIC_TASKS.items()
    }


@each_family
def test_splits_have_their_shares(family: Task) -> None:
    rng = random.Random(0)
    counts = Counter(
        item.split
        for item in {item.key: item for item in (family.make(rng) for _ in range(3000))}.values()
    )
    shares = [counts[split] / counts.total() for split in SPLITS]
    assert 0.8 < shares[0] < 0.9 and 0.03 < shares[1] < 0.08 and 0.06 < shares[2] < 0.14


CONTENT = {word.lower() for row in COUNTRIES for word in row}
CONTENT |= {
    word.lower()
    for listed in (words.PEOPLE, words.THINGS, words.ANIMALS, words.COLOURS, words.CITIES)
    for word in listed
}


def wording(item: Item) -> str:
    """The prompt's words without what is asked about: names, things, numbers, single letters, code."""
    prose = item.prompt.split("\n")[0]
    return " ".join(
        word for word in re.findall(r"[A-Za-z]{2,}", prose) if word.lower() not in CONTENT
    )


@pytest.mark.parametrize(
    "family", list(SYNTHETIC_TASKS.values()), ids=list(SYNTHETIC_TASKS)
)  # no two made chains are alike
def test_wording_varies_and_does_not_change_the_split(family: Task) -> None:
    rng = random.Random(1)
    by_key: dict[tuple[Any, ...], list[Item]] = defaultdict(list)
    for item in (family.make(rng) for _ in range(3000)):
        by_key[item.key].append(item)
    assert all(len({item.split for item in same}) == 1 for same in by_key.values())
    reworded = [same for same in by_key.values() if len({wording(item) for item in same}) > 1]
    assert len(reworded) >= 20
    common = Counter(wording(item) for same in reworded for item in same)
    assert len([text for text, count in common.items() if count >= 0.01 * common.total()]) >= 3


@each_family
def test_the_same_seed_gives_the_same_items(family: Task) -> None:
    first, again, other = (
        [*itertools.islice(generate_items(family, "test", seed), 20)] for seed in (3, 3, 4)
    )
    assert first == again and first != other
    assert distinct_items(family, "dev", 5, 10) == distinct_items(family, "dev", 5, 10)


PINNED = {
    "facts": ("94623d74b693", "80985b7cd377", "8ab79bb6da3f", "9245635383f5"),
    "span": ("59ced1b54150", "e2dc7d2fb4d2", "7ff9a1d4f018", "503e65a0c49c"),
    "discrete": ("66a7ea49f122", "ea17fbd3dcdc", "fdc65ebf6349", "348de4ab4d52"),
    "rule": ("ecd468e5fdb0", "1327e37ec4a1", "b72d4f3e184a", "f9d53b9f0081"),
    "program": ("a89d1a51c309", "7f36b3715050", "64bb0aa6379f", "03b58bffb4a7"),
    "output": ("f4bf1008e590", "e487d29e4f4d", "be94c4d8d156", "edc43c567f0b"),
    "arithmetic": ("69e50f1dbbb4", "56387f07d059", "6c163060d665", "1e0d3c2df841"),
    "algebra": ("79bcb3e1da64", "abc2016c5973", "7d1644ea2f79", "8ab2d97d3a83"),
    "chain": ("80eaa94c8f34", "baa2e8d153b3", "473e8e2876c8", "4dfed4a087f6"),
    "one-step": ("0af6baa9806b", "a210ef2d15ef", "3ebf482c31ec", "22ece0964e0e"),
    "one-fact": ("fe9e259f32ee", "fbaa64e7db13", "e363aaeb41a7", "7b1c7bf0e40d"),
    "sums": ("eae08db7ba48", "e4b10a5253ba", "27defed44140", "19f2bc9cbcdd"),
    "wordings": ("a652b70b540e", "eab2248738db", "ca49c00c0181", "c7149f952960"),
    "other": ("b1ee4b4973b7", "c279c37661f8", "bfdd1e01a2f5", "5b102c4ce39c"),
    "list-insert-random": ("783be5212bc0", "332034b0fe6e", "c0ea0a5926dc", "3c6e69040251"),
}
"""Digests of the first 10 and of 200 test items, then of dev items, of each family."""


@pytest.mark.slow
@each_family
def test_the_items_are_those_that_published_numbers_are_of(
    family: Task, tested: dict[str, list[Item]]
) -> None:
    """Whoever changes a draw, be it only its order, makes every table anew (docs/research/results.md) and
    then pins the new items here.
    """
    dev = distinct_items(family, "dev", 0, 200)
    test = tested[family.name]
    digests_found = tuple(items_digest(part) for part in (test[:10], test, dev[:10], dev))
    digests = ", ".join(f'"{digest}"' for digest in digests_found)
    assert digests_found == PINNED.get(family.name), (
        f'the items of {family.name} are new or changed; PINNED: "{family.name}": ({digests}),'
    )
    assert test[:10] == distinct_items(family, "test", 0, 10) and dev[:10] == distinct_items(
        family, "dev", 0, 10
    )


def test_a_limit_beyond_all_items_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw for each of a thousand million items would take years."""
    monkeypatch.setattr("creditdecoding.tasks.base._DRAWS_PER_ITEM", 100)
    few = dataclasses.replace(
        GENERATED_TASKS["facts"],
        make=lambda rng: Item("few", "?", "!", "!", (rng.randrange(30),)),
    )
    kinds = {split: len(distinct_items(few, split, 0, 10**9)) for split in SPLITS}
    assert sum(kinds.values()) == 30


def test_a_digest_names_items_and_their_order(tested: dict[str, list[Item]]) -> None:
    one, two = tested["facts"][:2]
    others = (
        items_digest([one]),
        items_digest([two]),
        items_digest([one, two]),
        items_digest([two, one]),
        items_digest([]),
    )
    assert len(set(others)) == 5
    assert items_digest([one]) != items_digest([dataclasses.replace(one, gold="other")])


def test_items_and_splits_do_not_depend_on_the_process(tested: dict[str, list[Item]]) -> None:
    """No hash order in it: a process with another hash seed makes the same items. It imports the
    tasks alone, not torch.
    """
    code = (
        "import sys, types, json\n"
        f"package = types.ModuleType('creditdecoding'); package.__path__ = [{str(PACKAGE)!r}]; sys.modules['creditdecoding'] = package\n"
        "from creditdecoding.tasks.base import distinct_items\n"
        "from creditdecoding.tasks.synthetic import SYNTHETIC_TASKS\n"
        "print(json.dumps({n: [[i.prompt, i.answer] for i in distinct_items(f, 'test', 0, 200)] for n, f in SYNTHETIC_TASKS.items()}))\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        check=True,
    )
    here = {name: [[item.prompt, item.answer] for item in tested[name]] for name in SYNTHETIC_TASKS}
    assert json.loads(done.stdout) == here


@pytest.mark.slow
@each_family
def test_answers_are_worked_but_short(
    family: Task, tokenizer: Tokenizer, tested: dict[str, list[Item]]
) -> None:
    items = [*itertools.islice(generate_items(family, "train", 0), 200), *tested[family.name]]
    lengths = [len(tokenizer.encode(item.answer)) for item in items]
    least = 20 if family.name in SYNTHETIC_TASKS or family.name == "chain" else 5
    assert min(lengths) >= least and max(lengths) <= 120, (min(lengths), max(lengths))
    assert all(
        family.step_delimiter in item.answer for item in items
    )  # steps that a verifier can tell apart
    assert all(
        tokenizer.decode(tokenizer.encode(text)) == text
        for item in tested[family.name]
        for text in (item.prompt, item.answer)
    )


def test_a_program_is_judged_by_what_it_does(quick: None) -> None:
    """A reference with its bound moved by one, its comparison widened, its factor changed or its
    condition left out must fail.
    """
    accepted, tried = [], 0
    for item in distinct_items(program.TASK, "test", 0, 200):
        for changed in mutants(item.answer):
            if differs(changed, item.answer, item.gold[0]):
                tried += 1
                accepted += [changed] if program.score(changed, item) else []
    assert tried > 500
    assert not accepted, f"{len(accepted)} of {tried} wrong programs pass, such as\n{accepted[0]}"


def mutants(code: str) -> Iterator[str]:
    """Programs nearly like a reference."""
    for match in re.finditer(r"if x (>|<|!=|%) (\d+)", code):
        number = int(match[2])
        for other in {number - 1, number + 1} - {0}:
            yield code[: match.start(2)] + str(other) + code[match.end(2) :]
        if match[1] in "<>":
            yield code[: match.end(1)] + "=" + code[match.end(1) :]
    for match in re.finditer(r"x [-+*] (\d+)", code):
        yield code[: match.start(1)] + str(int(match[1]) + 1) + code[match.end(1) :]
    yield re.sub(r"if .*:", "if True:", code)


def differs(code: str, reference: str, name: str) -> bool:
    """Whether two functions differ on a list of one small number (a changed bound may happen to add
    0 or multiply by 1).
    """
    scopes: list[dict[str, Any]] = [{}, {}]
    for scope, text in zip(scopes, (code, reference)):
        exec(text, scope)
    return any(scopes[0][name]([x]) != scopes[1][name]([x]) for x in range(-12, 21))


def test_a_program_cannot_claim_to_be_right(tested: dict[str, list[Item]]) -> None:
    item = tested["program"][0]
    for text in (
        "print('right')\nraise SystemExit(0)",
        "print('right')\nimport os\nos._exit(0)",
        f"def {item.gold[0]}(xs):\n    return None\n",
    ):
        assert not program.score(text, item), text


def test_a_program_that_never_ends_is_wrong(
    tested: dict[str, list[Item]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "returns_expected", functools.partial(returns_expected, seconds=1))
    item = tested["program"][0]
    assert not program.score(f"def {item.gold[0]}(xs):\n    while True:\n        pass", item)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Answer: 12", "12"),
        ("So it is 12. Answer: 12.", "12"),
        ("Answer: Paris and Lima ", "paris and lima"),
        ("Answer:\t x=5 .", "x=5"),
        ("Answer:7\nand so on", "7"),
        ("Answer: 7\r\nand so on", "7"),
        ("Answer: 1\nAnswer: 2", "2"),
        ("Answer: 1. No, wait. Answer: 2", "2"),
        ("Answer: Answer: 2", "2"),
        ("Answer: 3.5", "3.5"),
        ("Answer: -4", "-4"),
        ("Answer:", ""),
        ("Answer: 1\nAnswer:", ""),
        ("Answer:\n12", ""),
        ("the answer is 12", None),
        ("answer: 12", None),
        ("Answer 12", None),
        ("", None),
    ],
)
def test_the_final_answer_is_what_follows_the_last_marker(text: str, expected: str | None) -> None:
    assert final_answer(text) == expected


def test_a_number_is_compared_by_its_digits() -> None:
    item = Item("x", "", "", 12, ())
    assert same_answer("Answer: 12", item) and same_answer("Answer: 12.", item)
    assert not any(
        same_answer(f"Answer: {text}", item)
        for text in ("1", "2", "112", "120", "12 apples", "twelve", "", "None", "12, 13")
    )
    assert not same_answer("12", item) and not same_answer("none", Item("x", "", "", None, ()))


def tiny(*keys: int) -> Task:
    """A family with few structures, whose maker gives up where a caller would go on for ever."""
    left = itertools.count()

    def make(rng: random.Random) -> Item:
        assert next(left) < 300_000, "this would not end"
        return Item("tiny", "?", "!", "", (rng.choice(keys),))

    return Task("tiny", "tiny", make, same_answer)


def test_a_small_family_gives_what_it_has() -> None:
    keys = {i for i in range(40) if Item("tiny", "", "", "", (i,)).split == "test"}
    assert 0 < len(keys) < 30
    assert {item.key[0] for item in distinct_items(tiny(*range(40)), "test", 0, 30)} == keys


def test_a_split_without_items_is_empty() -> None:
    key = next(i for i in range(40) if Item("tiny", "", "", "", (i,)).split == "train")
    assert distinct_items(tiny(key), "dev", 0, 5) == []
