"""Every benchmark: released formats are read, references score 100%, other answers do not, bad
files are one line with a place.
"""

from __future__ import annotations

import gzip
import itertools
import json
import pickle
import sys
import zipfile
import zlib
from base64 import b64encode
from pathlib import Path

import pytest

from creditdecoding.cli import main
from creditdecoding.config import GenerationConfig
from creditdecoding.errors import MissingExtraError, OptionError
from creditdecoding.eval.evaluate import evaluate
from creditdecoding.lm import load
from creditdecoding.tasks import benchmarks, load_tasks
from creditdecoding.tasks.base import Item, Task, distinct_items
from creditdecoding.tasks.benchmarks import files, formulas
from creditdecoding.tasks.benchmarks.livecodebench import same_output

DATA = Path(__file__).parents[1] / "data"
SPECS = {
    "mmlu": "abstract_algebra_test.csv",
    "squad2": "squad2.json",
    "drop": "drop.json",
    "korbench": "korbench",
    "humaneval": "humaneval.jsonl",
    "livecodebench": "livecodebench.jsonl",
    "gsm8k": "gsm8k.jsonl",
    "math": "math.jsonl",
    "mbpp": "mbpp.jsonl",
    "countdown": "countdown.jsonl",
    "sudoku": "sudoku.jsonl",
    "parallelbench": "parallelbench/waiting_line/insert_index.jsonl",
}
WITH_BRACES = ("math", "gsm8k", "drop", "korbench", "mmlu", "countdown")
ON_THE_HUB = [name for name in benchmarks.NAMES if benchmarks.get(name).files]
each_benchmark = pytest.mark.parametrize("name", benchmarks.NAMES)


def one(name: str, path: str | Path | None = None) -> Task:
    """The family of a benchmark from its file here, or another."""
    pytest.importorskip("math_verify", reason="the extra eval is not installed") if name.startswith(
        "math"
    ) else None
    return load_tasks(f"{name}={path or DATA / SPECS[name.partition('@')[0]]}")[0]


def items(name: str, path: str | Path | None = None) -> list[Item]:
    """Its items."""
    return distinct_items(one(name, path), "test", 0, 0)


@each_benchmark
def test_the_reference_answers_score_100(name: str) -> None:
    family = one(name)
    listed = distinct_items(family, "test", 0, 0)
    assert len(listed) >= 2 and all(family.score(item.answer, item) is True for item in listed)
    assert family.partial_credit is None or all(
        family.partial_credit(item.answer, item) == 1 for item in listed
    )


@each_benchmark
def test_other_and_missing_answers_score_nothing(name: str) -> None:
    family = one(name)
    listed = distinct_items(family, "test", 0, 0)
    for item in listed:
        for text in (
            "",
            " \n",
            "```python\n",
            "I do not know.",
            "\\boxed{",
            "[[",
            "####",
            "Answer:",
        ):
            assert not family.score(text, item), (text, item)
            assert family.partial_credit is None or family.partial_credit(text, item) == 0
    for item, other in itertools.pairwise(listed):
        assert not family.score(other.answer, item), (item, other)


@each_benchmark
def test_templates(name: str) -> None:
    known = benchmarks.get(name).templates
    assert len(known) >= 3
    prompts = {items(f"{name}@{template}")[0].prompt for template in known}
    assert len(prompts) == len(known) and all("{" not in p or name in WITH_BRACES for p in prompts)
    with pytest.raises(
        OptionError,
        match=r"unknown template of .*Did you mean 'plain'"
        if "plain" in known
        else "unknown template",
    ):
        one(f"{name}@plan")


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_the_hub_is_asked_for_the_files_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(
        "math_verify", reason="the extra eval is not installed"
    ) if name == "math" else None
    requested = []

    def download(repo: str, file: str, repo_type: str) -> str:
        requested.append((repo, file, repo_type))
        if name == "korbench":
            kind, part = Path(file).parent.name, Path(file).stem
            there = (
                DATA / "korbench" / (f"{kind}.jsonl" if part == "sample" else f"{kind}_rule.jsonl")
            )
            return str(
                there
                if there.exists()
                else DATA / "korbench" / ("logic.jsonl" if part == "sample" else "logic_rule.jsonl")
            )
        return str(DATA / SPECS[name])

    monkeypatch.setattr(files, "hf_hub_download", download)
    family = load_tasks(name)[0]
    assert family.fixed_items and family.metadata["source"].startswith("hub: ")
    assert requested == [
        (benchmarks.get(name).repo, file, "dataset") for file in benchmarks.get(name).files
    ]


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr(files, "hf_hub_download", fail)
    with pytest.raises(
        OptionError,
        match=r"the hub did not give the data set \(no route\).*openai/gsm8k.*TASK=PATH",
    ) as caught:
        load_tasks("gsm8k")
    assert "\n" not in str(caught.value)


def test_archives_gzip_parquet_and_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mmlu.zip", "w") as archive:
        for path in DATA.glob("*_test.csv"):
            archive.write(path, f"data/test/{path.name}")
        archive.writestr("data/dev/astronomy_dev.csv", "only,a,b,c,d,A\n")
        archive.writestr("data/README.txt", "words")
    unpacked = items("mmlu", tmp_path / "mmlu.zip")
    assert (
        len(unpacked) == 4
        and "about abstract algebra" in unpacked[0].prompt
        and "Which planet\nis the largest?" in unpacked[2].prompt
    )
    packed = tmp_path / "HumanEval.jsonl.gz"
    packed.write_bytes(gzip.compress((DATA / "humaneval.jsonl").read_bytes()))
    assert [item.prompt for item in items("humaneval", packed)] == [
        item.prompt for item in items("humaneval")
    ]
    (tmp_path / "MATH" / "test" / "algebra").mkdir(parents=True)
    for number, line in enumerate((DATA / "math.jsonl").read_text().splitlines()):
        (tmp_path / "MATH" / "test" / "algebra" / f"{number}.json").write_text(line)
    assert len(items("math", tmp_path / "MATH")) == 4
    pyarrow = pytest.importorskip("pyarrow", reason="the extra eval is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {
            "question": "Why?",
            "subject": "high_school_physics",
            "choices": ["a", "b", "c", "d"],
            "answer": 2,
        }
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "test.parquet")
    item = items("mmlu", tmp_path / "test.parquet")[0]
    assert item.gold == "C" and "high school physics" in item.prompt and "C. c\n" in item.prompt


def test_the_hubs_rows_of_squad_and_drop(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(
        json.dumps(
            {
                "id": "1",
                "context": "Ann won.",
                "question": "Who?",
                "answers": {"text": [], "answer_start": []},
            }
        )
    )
    assert items("squad2", tmp_path / "s.jsonl")[0].gold == ()
    rows = [
        {
            "passage": "p",
            "question": "q",
            "answers_spans": {"spans": ["31", "31"], "types": ["number", "number"]},
        },
        {
            "passage": "p",
            "question": "q",
            "answer": {
                "number": "",
                "date": {"day": "", "month": "", "year": ""},
                "spans": ["a b", "c"],
            },
            "validated_answers": {
                "number": ["3"],
                "date": [{"day": "", "month": "", "year": ""}],
                "spans": [[]],
            },
        },
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [item.gold for item in items("drop", tmp_path / "d.jsonl")] == [
        (("31",),),
        (("a b", "c"), ("3",)),
    ]


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        (r"\boxed{0.8333333333}", r"\frac{5}{6}", True),
        (r"\boxed{\dfrac{5}{6}}", r"\frac{5}{6}", True),
        (r"\boxed{5/6}", r"\frac{5}{6}", True),
        (r"\boxed{\frac{6}{5}}", r"\frac{5}{6}", False),
        (r"\boxed{10,000}", "10000", True),
        (r"\boxed{10{,}000}", "10000", True),
        (r"\boxed{-3}", "3", False),
        (r"\boxed{1+2x+x^2}", "x^2+2x+1", True),
        (r"\boxed{\text{Friday}}", r"\text{Friday}", True),
        (r"The answer is $-3$.", "-3", True),
        (r"The answer is 12", "12", True),
        (r"\boxed{(2,-2)}", "(-2,2)", False),
        (r"\boxed{}", "0", False),
        (r"\boxed{50\%}", "50", True),
    ],
)
def test_mathematics(text: str, gold: str, right: bool) -> None:
    family = one("math")
    assert family.score(text, Item("math", "", "", gold, ())) is right


def test_squad_counts_f1_and_knows_no_answer() -> None:
    family = one("squad2")
    first, second, third = distinct_items(family, "test", 0, 0)
    assert family.partial_credit is not None
    assert family.score("Novak built it.\nAnswer: novak!", first) and not family.score(
        "Answer: Jan", first
    )
    assert family.partial_credit("Answer: Jan", first) == pytest.approx(2 / 3)
    assert family.score("Answer: Brook family.", second)
    for text in ("Answer: unanswerable", "No answer", "The question is unanswerable."):
        assert (
            family.score(text, third)
            and family.partial_credit(text, third) == 1
            and not family.score(text, first)
        ), text


def test_drop_aligns_spans_and_needs_the_numbers() -> None:
    family = one("drop")
    number, players, date, team = distinct_items(family, "test", 0, 0)
    assert family.partial_credit is not None
    assert (
        family.score("21 + 10 = 31.\nAnswer: 31.0 ", number)
        and family.partial_credit("Answer: 32", number) == 0
    )
    assert family.score("Answer: Mott and Reed", players) and family.score("Mott; Reed", players)
    assert family.partial_credit("Answer: Reed", players) == 0.5 and not family.score(
        "Answer: Reed", players
    )
    assert family.score("Answer: May 3, 1998", date) and family.score("Answer: bears", team)


def test_korbench_answers() -> None:
    family = one("korbench")
    by_gold = {item.gold: item for item in distinct_items(family, "test", 0, 0)}
    assert "Define a \u263c b" in by_gold["8"].prompt
    assert family.score("So [[ 8.0 ]]", by_gold["8"]) and not family.score("8", by_gold["8"])
    assert family.score("[[1 or 0.5]]", by_gold["1/2or1"]) and not family.score(
        "[[1]]", by_gold["1/2or1"]
    )
    assert family.score("[[p1 & p2]; [~p1]]", by_gold["p1&p2];[~p1"])


def test_code_is_run_whole_or_as_a_completion() -> None:
    family = one("humaneval")
    first = distinct_items(family, "test", 0, 0)[0]
    for text in (
        "    return [x * 2 for x in xs]",
        "return [x * 2 for x in xs]",
        "```python\ndef doubled(xs):\n    return [helper(x) for x in xs]",
        "Here it is:\n```python\ndef doubled(xs: List[int]):\n    return [x + x for x in xs]\n```\nIt works.",
    ):
        assert family.score(text, first), text
    for text in (
        "    return xs",
        "    raise SystemExit(0)",
        "    import os; os._exit(0)",
        "```python\ndef other(xs):\n    return 1\n```",
    ):
        assert not family.score(text, first), text


def test_contest_programs() -> None:
    family = one("livecodebench")
    printed, called = distinct_items(family, "test", 0, 0)
    assert family.score(
        "```python\nimport sys\nprint(sum(map(int, sys.stdin.read().split())))\n```", printed
    )
    assert not family.score("```python\nprint(3)\n```", printed)
    assert not family.score(
        "```python\nclass Solution:\n    def most(self, nums, least):\n        return max(nums)\n```",
        called,
    )
    assert (
        same_output("1.0 2\nyes \n", "1 2.0\nyes")
        and not same_output("1\n2", "1")
        and not same_output("a", "b")
    )


def test_private_tests_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "evil",))

    record = json.loads((DATA / "livecodebench.jsonl").read_text().splitlines()[0])
    for content, reason in (
        (pickle.dumps(Evil()), "not plain data"),
        (b"nothing", "cannot be unpacked"),
    ):
        record["private_test_cases"] = b64encode(zlib.compress(content)).decode()
        (tmp_path / "l.jsonl").write_text(json.dumps(record))
        with pytest.raises(OptionError, match=rf"{reason}.*l\.jsonl line 1"):
            one("livecodebench", tmp_path / "l.jsonl")
    assert not (tmp_path / "evil").exists()


BAD = [
    (
        "gsm8k",
        "x.jsonl",
        '{"question": "a", "answer": "#### 1"}\n{"question": ',
        r"not JSON.*x\.jsonl line 2",
    ),
    (
        "gsm8k",
        "x.jsonl",
        '{"question": "a", "answer": "#### 1"}\n\n{"text": "b"}',
        r"not a record of gsm8k \(no 'answer'\).*x\.jsonl line 3",
    ),
    ("gsm8k", "x.jsonl", '{"question": "a", "answer": "12"}', r"no number after ####.*line 1"),
    ("gsm8k", "x.jsonl", "[1]", "not a JSON object.*line 1"),
    ("gsm8k", "x.jsonl", "", "no gsm8k items"),
    ("gsm8k", "x.txt", "a", r"not a data file.*\.jsonl"),
    ("gsm8k", "x.jsonl.gz", "a", "the file cannot be read"),
    ("gsm8k", "x.parquet", "a", "the file cannot be read"),
    ("mmlu", "x.csv", "q,a,b,c,d,E\n", "four options and a letter.*line 1"),
    ("mmlu", "x.csv", "q,a,b,C\n", "four options"),
    ("mmlu", "x.zip", "a", "the archive cannot be read"),
    ("math", "x.json", '[{"problem": "a", "solution": "12"}]', r"no \\boxed answer.*record 1"),
    ("squad2", "x.json", '{"data": [{}]}', r"no 'paragraphs'"),
    (
        "drop",
        "x.json",
        '{"id": {"passage": "p", "qa_pairs": [{"question": "q", "answer": {}}]}}',
        "without an answer",
    ),
    ("korbench", "cipher.jsonl", "{}", "no such file.*cipher_rule.jsonl"),
    (
        "humaneval",
        "x.jsonl",
        '{"prompt": "p", "entry_point": "f", "test": "t"}',
        "no check function",
    ),
    (
        "livecodebench",
        "x.jsonl",
        '{"question_content": "q", "public_test_cases": "[]", "private_test_cases": "[]"}',
        "without tests",
    ),
]


@pytest.mark.parametrize(("name", "file", "content", "message"), BAD)
def test_a_bad_file_is_one_line_with_its_place(
    name: str, file: str, content: str, message: str, tmp_path: Path
) -> None:
    pytest.importorskip(
        "pyarrow", reason="the extra eval is not installed"
    ) if "parquet" in file else None
    (tmp_path / file).write_text(content)
    with pytest.raises(OptionError, match=message) as caught:
        one(name, tmp_path / file)
    assert "\n" not in str(caught.value)


def test_unknown_names_and_missing_files(tmp_path: Path) -> None:
    for name in ("facts=items.jsonl", "pocket=/tmp"):
        with pytest.raises(OptionError, match=f"items of this task are generated; got '{name}'"):
            load_tasks(name)
    with pytest.raises(OptionError, match=r"unknown task; got 'gsm8'.*Did you mean 'gsm8k'"):
        load_tasks("gsm8=x.jsonl")
    with pytest.raises(OptionError, match=r"no such file.*nowhere"):
        load_tasks("gsm8k=nowhere/x.jsonl")
    with pytest.raises(OptionError, match="no such file"):
        load_tasks("korbench=nowhere")
    with pytest.raises(OptionError, match="no data file in the folder"):
        load_tasks(f"gsm8k={tmp_path}")
    with pytest.raises(OptionError, match="no questions of korbench"):
        load_tasks(f"korbench={DATA / 'korbench' / 'logic_rule.jsonl'}")


def test_without_the_extra_the_hint_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    family = one("math")
    monkeypatch.setattr(formulas, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"math-verify.*creditdecoding\[eval\]"):
        family.score("1", Item("math", "", "", "1", ()))
    monkeypatch.setattr(files.parquet, "_parquet", None)
    (tmp_path / "x.parquet").write_text("a")
    with pytest.raises(MissingExtraError, match=r"pyarrow.*creditdecoding\[eval\]"):
        one("gsm8k", tmp_path / "x.parquet")


def test_limit() -> None:
    family = one("gsm8k")
    assert len(distinct_items(family, "test", 0, 0)) == 4
    drawn = distinct_items(family, "test", 0, 2)
    assert drawn == distinct_items(family, "test", 0, 2) and len(drawn) == 2
    assert {distinct_items(family, "test", seed, 1)[0] for seed in range(40)} == set(
        distinct_items(family, "test", 0, 4)
    )
    with pytest.raises(
        OptionError, match=r"the limit is larger than gsm8k; got 5; allowed: at most 4"
    ):
        distinct_items(family, "test", 0, 5)
    with pytest.raises(OptionError, match="generated without end"):
        distinct_items(load_tasks("facts")[0], "test", 0, 0)


def test_a_report_has_every_setting() -> None:
    tasks = [one("gsm8k"), one("squad2@short")]
    report = evaluate(load("pocket"), tasks, GenerationConfig(gen_length=8), 2).to_json()
    assert (
        set(report["families"]) == {"gsm8k", "squad2@short"}
        and report["families"]["squad2@short"]["f1"] >= 0
    )
    assert all(family["items"] == 2 and family["tps"] > 0 for family in report["families"].values())
    about = report["settings"]["tasks"]["squad2@short"]
    assert (
        about["template"] == "short"
        and len(about["sha256"]["squad2.json"]) == 64
        and about["items"] == 3
    )
    assert report["settings"]["raw"] is False and report["settings"]["gen_length"] == 8


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> int:
        monkeypatch.setattr(
            sys, "argv", ["credit", "eval", "--gen-length", "8", "--json", *arguments]
        )
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0)

    out = tmp_path / "out.json"
    spec = f"gsm8k={DATA / 'gsm8k.jsonl'},mmlu@base={DATA / 'astronomy_test.csv'}"
    assert call("--tasks", spec, "--limit", "0", "--raw", "--out", str(out)) == 0
    shown, saved = json.loads(capsys.readouterr().out), json.loads(out.read_text())
    assert {"score", "nfe", "tpf", "tps"} <= set(shown) and shown["items"] == 6 == len(
        saved["samples"]
    )
    assert {"decoder", "tasks", "engine", "raw", "model", "seed", "limit"} <= set(shown["settings"])
    assert call("--tasks", spec, "--limit", "9") == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and "at most 4" in errors
