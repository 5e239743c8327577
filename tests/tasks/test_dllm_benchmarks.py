"""MBPP, Countdown, sudoku, ParallelBench: what their scorers take and refuse, in every released
form.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import Item, Task, distinct_items

DATA = Path(__file__).parents[1] / "data"
PARALLELBENCH = load_tasks(f"parallelbench={DATA / 'parallelbench'}")


def one(name: str) -> tuple[Task, list[Item]]:
    """A benchmark and its items, from the file here."""
    task = load_tasks(f"{name}={DATA / name}.jsonl")[0]
    return task, distinct_items(task, "test", 0, 0)


def test_mbpp_takes_both_releases_and_leaves_out_what_is_not_in_the_test_set() -> None:
    task, items = one("mbpp")
    assert [item.gold[0] for item in items] == ["doubled", "letters"]
    assert "assert letters('') == set()" in items[1].prompt
    assert task.score("```python\nletters = set\n```", items[1])
    assert task.score("def letters(word):\n    return {x for x in word}", items[1])
    usage = (
        "```python\ndef letters(w):\n    return set(w)\n```\nUse:\n```python\nletters('ab')\n```"
    )
    assert task.score(usage, items[1])
    for wrong in ("return set(word)", "def letters(word):\n    return list(word)", "letters"):
        assert not task.score(f"```python\n{wrong}\n```", items[1])


def test_mbpp_as_a_base_model_is_asked() -> None:
    task = load_tasks(f"mbpp@base={DATA / 'mbpp.jsonl'}")[0]
    item = distinct_items(task, "test", 0, 0)[1]
    assert item.prompt.endswith("[BEGIN]\n") and item.prompt.count("[DONE]") == 2
    assert task.score("def letters(word):\n    return set(word)\n[DONE]\nAnd more (", item)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (r"\boxed{79-(44-15)}", True),
        (r"So $\boxed{79 - 44 + 15}$.", True),
        (r"<reasoning>15+44=59</reasoning><answer>\boxed{15 + 79 - 44}</answer>", True),
        ("44-15=29,79-29=50", True),
        ("79-44=35, 35+15=50", True),
        ("Think.\nAnswer: 79 - (44 - 15) = 50", True),
        ("79\u221244+15", True),
        (r"\boxed{79-44}", False),
        (r"\boxed{79-44+15+0}", False),
        (r"\boxed{50}", False),
        (r"\boxed{79-44+15=51}", False),
        (r"\boxed{__import__('os')}", False),
        (r"\boxed{79**44}", False),
        ("44-15=29,79-29=51", False),
        ("44-15=28,79-28=51", False),
        ("79-29=50", False),
        ("44-15=29,44-15=29,79-29=50", False),
        ("79-29=50,44-15=29", False),
        ("((" * 400, False),
    ],
)
def test_countdown(text: str, right: bool) -> None:
    task, items = one("countdown")
    assert task.score(text, items[0]) is right


def test_countdown_finds_the_solution_that_a_row_leaves_out(tmp_path: Path) -> None:
    task, items = one("countdown")
    assert items[2].answer.startswith(r"\boxed{") and task.score(r"\boxed{6/3*2}", items[2])
    for row, reason in (
        ({"input": "1,1", "output": "5"}, "cannot be reached"),
        ({"input": "1,2,3,4,5", "output": "6"}, "more than 4 numbers"),
        ({"input": "7", "output": "7"}, "fewer than two"),
    ):
        (tmp_path / "c.jsonl").write_text(json.dumps(row))
        with pytest.raises(OptionError, match=rf"{reason}.*line 1"):
            load_tasks(f"countdown={tmp_path / 'c.jsonl'}")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("1234\n3412\n2143\n4321", True),
        ("Output:\n1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1\n", True),
        ("| 1 | 2 | 3 | 4 |\n|3|4|1|2|\n|2|1|4|3|\n|4|3|2|1|", True),
        ("1034\n3402\n0143\n4320\n\nSolved:\n1234\n3412\n2143\n4321", True),
        ("<answer>\n[1234341221434321]\n</answer>", True),
        ("1234\n3412\n2143", False),
        ("1034\n3402\n0143\n4320", False),
        ("2143\n4321\n1234\n3412", False),
        ("1234\n3412\n2143\n4312", False),
    ],
)
def test_sudoku(text: str, right: bool) -> None:
    task, items = one("sudoku")
    assert task.score(text, items[0]) is right


def test_sudoku_of_nine_and_its_partial_credit(tmp_path: Path) -> None:
    shifts = (0, 3, 6, 1, 4, 7, 2, 5, 8)
    rows = ["".join(str((shift + i) % 9 + 1) for i in range(9)) for shift in shifts]
    puzzle = ["0" * 9, *rows[1:]]
    (tmp_path / "s.csv").write_text(f"Puzzle,Solution\n{''.join(puzzle)},{''.join(rows)}\n")
    task = load_tasks(f"sudoku@string={tmp_path / 's.csv'}")[0]
    item = distinct_items(task, "test", 0, 0)[0]
    assert "9x9" in item.prompt and "81 digits" in item.prompt
    assert task.partial_credit is not None
    nearly = "\n".join(["123456798", *rows[1:]])
    assert not task.score(nearly, item)
    assert task.partial_credit(nearly, item) == pytest.approx(7 / 9)
    (tmp_path / "s.csv").write_text(f"{''.join(puzzle)},{''.join(puzzle)}\n")
    with pytest.raises(OptionError, match="does not solve"):
        load_tasks(f"sudoku={tmp_path / 's.csv'}")


def test_each_file_of_parallelbench_is_a_task() -> None:
    names = [task.name for task in PARALLELBENCH]
    assert len(names) == 8 and "parallelbench/waiting_line/shuffle" in names
    by_name = {task.name.rpartition("/")[2]: task for task in PARALLELBENCH}
    for task in PARALLELBENCH:
        for item in distinct_items(task, "test", 0, 0):
            assert task.score(item.answer, item) and not task.score("", item)
    item = distinct_items(by_name["insert_index"], "test", 0, 0)[0]
    first, question = item.prompt.split('["Cy Day", "Ann Lee", "Bo Ray"]\n\n')
    assert first.startswith('Put "Cy Day" at position 0') and 'Put "Ida Sun"' in question
    assert (
        "Fill the zeros:\n0042" in distinct_items(by_name["sudoku_n4_12"], "test", 0, 0)[0].prompt
    )


@pytest.mark.parametrize(
    ("name", "text", "right"),
    [
        ("insert_index", 'Here: ["Eve Orr", "Gus Poe", "Ida Sun", "Hal Roy"].', True),
        ("insert_index", "Eve Orr, Gus Poe, Ida Sun, Hal Roy", True),
        ("insert_index", '["Eve Orr", "Ida Sun", "Gus Poe", "Hal Roy"]', False),
        ("insert_random", '["Eve Orr", "Gus Poe", "Hal Roy", "Ida Sun"]', True),
        ("insert_random", '["Eve Orr", "Ida Sun", "Gus Poe", "Ida Sun"]', False),
        ("insert_random", '["Eve Orr", "Gus Poe", "Hal Roy"]', False),
        ("remove_random", '["Gus Poe", "Hal Roy"]', True),
        ("remove_random", '["Hal Roy", "Gus Poe"]', False),
        ("remove_random", '["Eve Orr", "Gus Poe", "Hal Roy"]', False),
        ("replace_random", '["Ida Sun", "Gus Poe", "Hal Roy"]', True),
        ("replace_random", '["Ida Sun", "Ida Sun", "Hal Roy"]', False),
        ("shuffle", '["Gus Poe", "Eve Orr", "Hal Roy"]', True),
        ("shuffle", '["Eve Orr", "Gus Poe", "Hal Roy"]', False),
        ("shuffle", '["Gus Poe", "Gus Poe", "Hal Roy"]', False),
        ("latin_square_n4", "A,7,B\n7,B,A\nB,A,7", True),
        ("latin_square_n4", "A,7,B\nA,7,B\nB,A,7", False),
        ("sudoku_n4_12", "1342\n2431\n4123\n3214", True),
        ("sudoku_n4_12", "1342\n2431\n4123", False),
        ("easy", "The boat lay on the calm lake.", True),
        ("easy", "The boat lay on the lake.", False),
    ],
)
def test_parallelbench(name: str, text: str, right: bool) -> None:
    task = next(task for task in PARALLELBENCH if task.name.endswith(f"/{name}"))
    assert task.score(text, distinct_items(task, "test", 0, 0)[0]) is right


def test_parallelbench_needs_its_prompts_and_a_metric_that_is_known(tmp_path: Path) -> None:
    folder = tmp_path / "waiting_line"
    folder.mkdir()
    shutil.copy(DATA / "parallelbench" / "waiting_line" / "shuffle.jsonl", folder / "copy.jsonl")
    with pytest.raises(OptionError, match=r"no prompt and metric of waiting_line/copy"):
        load_tasks(f"parallelbench={tmp_path}")
    config = {"waiting_line/copy": {"prompt": "{context}", "metric": "paraphrase_score"}}
    (folder / "task_config.yaml").write_text(json.dumps(config))
    with pytest.raises(OptionError, match=r"not implemented; got 'paraphrase_score of"):
        load_tasks(f"parallelbench={tmp_path}")


@pytest.mark.parametrize("name", ["countdown", "sudoku", "parallelbench"])
def test_what_the_hub_does_not_have_is_said(name: str) -> None:
    with pytest.raises(OptionError, match=rf"{name} is not on the hub.*{name}=PATH"):
        load_tasks(name)
