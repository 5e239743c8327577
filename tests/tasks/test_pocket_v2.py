"""What the embedded model learned after its eight families: list operations, other wordings, sums,
and an answer for anything else.
"""

from __future__ import annotations

import itertools
import json
import pickle
import random
import re
from collections import Counter
from pathlib import Path

import pytest

import creditdecoding
from creditdecoding.tasks import GROUPS, load_tasks
from creditdecoding.tasks.base import Item, Task, distinct_items, generate_items, items_digest
from creditdecoding.tasks.synthetic import POCKET_V2_TASKS, other, sums, wordings
from creditdecoding.tasks.synthetic.lists import LIST_TASKS, WaitingLine
from creditdecoding.tasks.synthetic.noise import noisy_phrase, noisy_start

DATA = Path(creditdecoding.__file__).parent / "tasks" / "synthetic" / "data"
LINE = WaitingLine(("Tom", "Ann", "Leo"), "Mia", 2)


def test_groups_keep_their_meaning() -> None:
    assert [len(GROUPS[name]) for name in ("pocket", "lists", "pocket-v2")] == [8, 10, 23]
    assert list(GROUPS["lists"].values()) == load_tasks("lists")
    assert load_tasks("pocket-v2")[:8] == load_tasks("pocket")
    drawn = [next(generate_items(task, "test", 0)) for task in POCKET_V2_TASKS.values()]
    assert items_digest(drawn) == "0dc880e87d96"


@pytest.mark.parametrize("task", POCKET_V2_TASKS.values(), ids=lambda task: task.name)
def test_a_task_can_be_sent_to_another_process(task: Task) -> None:
    sent = pickle.loads(pickle.dumps(task))
    item = next(generate_items(task, "dev", 3))
    assert next(generate_items(sent, "dev", 3)) == item
    assert sent.score(item.answer, item)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("copy", ["Tom, Ann, Leo"], ["Tom, Leo, Ann", "Tom, Ann", "Tom, Ann, Leo, Leo"]),
        ("reverse", ["Leo, Ann, Tom"], ["Tom, Ann, Leo"]),
        ("sort", ["Ann, Leo, Tom"], ["Ann, Tom, Leo"]),
        ("shuffle", ["Ann, Tom, Leo", "leo, tom, ann."], ["Tom, Ann, Leo", "Ann, Ann, Leo"]),
        ("insert-index", ["Tom, Mia, Ann, Leo"], ["Mia, Tom, Ann, Leo", "Tom, Ann, Leo"]),
        ("insert-random", ["Tom, Ann, Leo, Mia", "Mia, Tom, Ann, Leo"], ["Mia, Ann, Tom, Leo"]),
        ("remove-index", ["Tom, Leo"], ["Tom, Ann"]),
        ("remove-random", ["Ann, Leo", "Tom, Ann"], ["Leo, Tom", "Tom", "Tom, Ann, Leo"]),
        ("replace-index", ["Tom, Mia, Leo"], ["Mia, Ann, Leo", "Tom, Mia, Ann, Leo"]),
        ("replace-random", ["Mia, Ann, Leo", "Tom, Ann, Mia"], ["Mia, Mia, Leo", "Tom, Ann, Leo"]),
    ],
)
def test_list_operations(kind: str, right: list[str], wrong: list[str]) -> None:
    task = LIST_TASKS[f"list-{kind}"]
    item = Item(task.name, "", "", LINE, ())
    assert all(task.score(f"Answer: {text}", item) for text in right)
    assert not any(task.score(f"Answer: {text}", item) for text in wrong)
    assert not task.score(right[0], item) and not task.score("", item)


@pytest.mark.parametrize("task", LIST_TASKS.values(), ids=list(LIST_TASKS))
def test_lines_are_worked_right_at_every_position(task: object) -> None:
    made = [LIST_TASKS[task.name].make(random.Random(seed)) for seed in range(60)]  # type: ignore[attr-defined]
    assert all(LIST_TASKS[item.task].score(item.answer, item) for item in made)
    assert {len(item.gold.names) for item in made} == {3, 4, 5, 6}
    assert len({item.gold.position for item in made}) >= 5


def test_no_held_out_phrase_is_a_training_phrase() -> None:
    phrases = json.loads((DATA / "wordings.json").read_text())
    groups = [group for name in phrases if name not in ("start", "end") for group in phrases[name]]
    for group in [*groups, phrases["start"], phrases["end"]]:
        known = {*group.get("usual", ()), *group["training"]}
        assert group["held_out"] and not known & {*group["held_out"]}
    everyday = json.loads((DATA / "everyday.json").read_text(encoding="utf-8"))
    for kind, training in everyday["training"].items():
        assert not {*training} & {*everyday["held_out"][kind]}, kind


def test_every_question_is_reworded_by_its_split() -> None:
    """200 test paraphrases, from every family; the words around names and numbers occur in no
    training item.
    """
    tested = distinct_items(wordings.TASK, "test", 0, 200)
    assert len(tested) == 200 and len({item.split_as for item in tested}) == 11
    trained = {
        item.prompt for item in itertools.islice(generate_items(wordings.TASK, "train", 0), 2000)
    }
    assert not trained & {item.prompt for item in tested}
    for item in tested:
        assert item.split_as is not None
        original = Item(item.split_as, "", "", "", item.key)
        assert original.split == item.split == "test"


@pytest.mark.parametrize("kind", ["training", "held_out"])
@pytest.mark.parametrize(
    "name", ["facts", "span", "rule", "program", "algebra", "one-step", "sums"]
)
def test_rewording_keeps_what_is_asked(name: str, kind: str) -> None:
    """Numbers, names and code are the same, in whatever order."""
    rng = random.Random(1)
    for item in (POCKET_V2_TASKS[name].make(rng) for _ in range(100)):
        reworded = wordings.reword(item.prompt, name, kind, rng)
        assert reworded != item.prompt and "{" not in reworded
        assert Counter(re.findall(r"\d+", reworded)) == Counter(re.findall(r"\d+", item.prompt))
        names = Counter(re.findall(r"(?<![.?!:] )(?<!^)\b[A-Z]\w+", item.prompt))
        assert not names - Counter(re.findall(r"\b[A-Z]\w+", reworded)) - Counter(["Python"])


def test_noise_touches_weak_words_only() -> None:
    """Slots and the words that carry the question stay, in their order; some phrases are as they
    were; none becomes one that is held out.
    """
    rng = random.Random(0)
    phrase = "Tell me how many more {n} and {o} have than {h}."
    strong = ["how", "many", "more", "{n}", "and", "{o}", "than", "{h}."]
    drawn = [noisy_phrase(phrase, (), other.any_word, rng) for _ in range(400)]
    assert 150 < drawn.count(phrase) < 350 and len({*drawn}) > 50
    for text in drawn:
        words = iter(text.replace("How", "how").split(" "))
        assert all(word in words for word in strong)
    held_out = {"What is {z}?"}
    near = [noisy_phrase("{z}?", held_out, lambda rng: "is", rng) for _ in range(99)]
    assert {*near} == {"{z}?"}
    swapped = {noisy_phrase("Which is {z}?", held_out, lambda rng: "what", rng) for _ in range(400)}
    assert "What what {z}?" in swapped and not swapped & held_out


def test_a_noisy_start_leaves_the_question_as_it_is() -> None:
    rng = random.Random(0)
    drawn = [noisy_start("What is 2+2?", other.any_word, rng) for _ in range(200)]
    assert all(text.endswith("What is 2+2?") for text in drawn)
    assert 10 < len({*drawn}) < 60


def test_a_question_as_it_is_typed() -> None:
    rng = random.Random(0)
    loose = {wordings.loosen("What is 2+2?", "training", rng) for _ in range(300)}
    assert {"What is 2+2", "what is 2+2?", "What is 2+2 ?", "What is  2+2?"} <= loose
    assert wordings.space_operators("2+2", random.Random(1)) == "2 + 2"
    code = "Run this.\na = 2\nprint(a)"
    assert all(
        wordings.loosen(code, "held_out", rng).endswith("\na = 2\nprint(a)") for _ in range(99)
    )


def test_anything_else_is_refused_in_the_same_words() -> None:
    rng = random.Random(0)
    made = [other.make(rng) for _ in range(300)]
    assert {item.answer for item in made} == {other.REFUSAL}
    assert len({item.prompt for item in made}) > 250 and all(item.prompt.strip() for item in made)
    assert other.score(f"{other.REFUSAL}\n", made[0])
    assert not other.score(other.REFUSAL[:-1], made[0]) and not other.score("", made[0])


def test_sums_are_right() -> None:
    for item in (sums.make(random.Random(seed)) for seed in range(300)):
        x, sign, y = item.key
        assert eval(f"{x}{sign}{y}") == item.gold and f"{x}{sign}{y}" in item.prompt
