"""Long commands that are stopped on the way: Ctrl-C, SIGTERM or SIGKILL after some lines, then the
same command, then the same result.

A result is what the command leaves in its files, without the seconds it took.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.cli import app
from creditdecoding.cli.signals import signals_as_exceptions
from creditdecoding.eval import evaluate as runner
from creditdecoding.pav.data.label_store import load_labels as load_labels
from creditdecoding.tasks import load_tasks
from creditdecoding.train.options import TrainConfig
from creditdecoding.train.tokenizer import task_tokenizer
from tests.helpers.cli import run_credit
from tests.helpers.process import Moment, signalled
from tools.make_checkpoint import make

pytestmark = pytest.mark.slow

TIMES = ("seconds", "tps", "rollouts_per_second", "throughput")
SHORT = [
    "--gen-length",
    "12",
    "--block-length",
    "4",
    "--no-early-stop",
    "--batch-size",
    "2",
    "--threads",
    "1",
    "--device",
    "cpu",
]
DRAWN = [*SHORT, "--temperature", "1.5", "--decoder", "fixed"]


@dataclass(frozen=True)
class Command:
    """A long command: its arguments, the files that grow while it runs, after how many lines it is
    stopped, its result.
    """

    arguments: Callable[[Path, Path], list[str]]
    growing: str
    lines: int
    result: Callable[[Path], Any]


def timeless(value: Any) -> Any:
    """JSON data without times."""
    if isinstance(value, dict):
        return {name: timeless(inner) for name, inner in value.items() if name not in TIMES}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def whole(path: Path) -> Any:
    """A JSON file without times."""
    return timeless(json.loads(path.read_text()))


def lines(path: Path) -> list[Any]:
    """A file of JSON lines without times."""
    return [timeless(json.loads(line)) for line in path.read_text().splitlines()]


def evaluating(model: Path, folder: Path) -> list[str]:
    asked = [
        "eval",
        "-m",
        str(model / "llada"),
        "--tasks",
        "algebra,facts",
        "--limit",
        "20",
        "--decoder",
        "fixed",
    ]
    return [*asked, *SHORT, "--out", str(folder / "e.json")]


def comparing(model: Path, folder: Path) -> list[str]:
    asked = [
        "compare",
        "-m",
        str(model / "llada"),
        "--tasks",
        "algebra,facts",
        "--decoders",
        "fixed threshold:threshold=0.9",
        "--limit",
        "8",
    ]
    return [*asked, "--dev-limit", "2", *SHORT, "--out", str(folder / "run")]


def tuning(model: Path, folder: Path) -> list[str]:
    asked = [
        "tune",
        "-m",
        str(model / "llada"),
        "--tasks",
        "algebra",
        "--decoder",
        "fixed:k=2|3",
        "--limit",
        "24",
        "--bound",
        "20",
    ]
    return [*asked, *SHORT, "--out", str(folder / "d.yaml")]


def answering(model: Path, folder: Path) -> list[str]:
    bodies = [{"prompt": f"question {i}", "max_tokens": 16, "decoder": "fixed"} for i in range(24)]
    asked = [
        {"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}
        for i, body in enumerate(bodies)
    ]
    source = model / "requests.jsonl"
    if not source.exists():
        source.write_text("".join(json.dumps(line) + "\n" for line in asked))
    given = ["-m", str(model / "llada"), "--threads", "1", "--batch-size", "2", "--device", "cpu"]
    return ["batch", str(source), str(folder / "answers.jsonl"), *given]


def collecting(model: Path, folder: Path) -> list[str]:
    asked = [
        "pav",
        "collect",
        str(folder / "labels.jsonl"),
        "-m",
        str(model / "llada"),
        "--tasks",
        "algebra",
        "--limit",
        "6",
    ]
    return [*asked, "--n-cov", "2", "--n-mc", "2", "--delimiter", "4 tokens", *DRAWN]


def fitting(model: Path, folder: Path) -> list[str]:
    asked = [
        "pav",
        "train",
        str(model / "labels.jsonl"),
        "-m",
        str(model / "llada"),
        "--out",
        str(folder / "verifier"),
    ]
    return [
        *asked,
        "--epochs",
        "10",
        "--fit-batch",
        "2",
        "--save-every",
        "3",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]


def learning(model: Path, folder: Path) -> list[str]:
    asked = [
        "pav",
        "rl",
        "-m",
        str(model / "llada"),
        "--out",
        str(folder / "rl"),
        "--tasks",
        "algebra",
        "--arm",
        "outcome",
        "--baseline",
        "others",
    ]
    asked += [
        "--iterations",
        "8",
        "--problems",
        "2",
        "--save-every",
        "3",
        "--eval-every",
        "4",
        "--eval-limit",
        "1",
        "--delimiter",
        "4 tokens",
    ]
    return [*asked, *DRAWN]


def training(model: Path, folder: Path) -> list[str]:
    out = folder / "run"
    if not out.exists():
        shutil.copytree(model / "tokenizer", out)
    shape = [
        "--hidden-size",
        "32",
        "--num-layers",
        "1",
        "--num-heads",
        "2",
        "--intermediate-size",
        "32",
        "--vocabulary",
        "300",
    ]
    asked = [
        "--steps",
        "30",
        "--batch-size",
        "4",
        "--drill-steps",
        "2",
        "--save-every",
        "3",
        "--eval-every",
        "20",
        "--no-compile",
    ]
    return [
        "train",
        "--out",
        str(out),
        "--tasks",
        "facts",
        *shape,
        *asked,
        "--eval-limit",
        "1",
        "--report-limit",
        "1",
    ]


def checkpoint(folder: Path, *more: Any) -> list[Any]:
    """The weights in a folder, and what else is said."""
    return [(folder / "model.safetensors").read_bytes(), *more]


def labels(folder: Path) -> Any:
    found = load_labels(folder / "labels.jsonl")
    return found.identity, found.settings, found.labels


COMMANDS = {
    "eval": Command(
        evaluating, "e.json.partial/samples.*.jsonl", 13, lambda folder: whole(folder / "e.json")
    ),
    "compare": Command(
        comparing, "run/samples.*.jsonl", 13, lambda folder: lines(folder / "run" / "samples.jsonl")
    ),
    "tune": Command(
        tuning, "d.yaml.partial/samples.*.jsonl", 30, lambda folder: (folder / "d.yaml").read_text()
    ),
    "batch": Command(
        answering,
        "answers.jsonl.partial/samples.*.jsonl",
        7,
        lambda folder: (folder / "answers.jsonl").read_bytes(),
    ),
    "pav collect": Command(collecting, "labels.jsonl", 6, labels),
    "pav train": Command(
        fitting,
        "verifier/log.jsonl",
        8,
        lambda folder: checkpoint(
            folder / "verifier",
            whole(folder / "verifier" / "verifier.json"),
            lines(folder / "verifier" / "log.jsonl"),
        ),
    ),
    "pav rl": Command(
        learning,
        "rl/log.jsonl",
        5,
        lambda folder: checkpoint(
            folder / "rl", whole(folder / "rl" / "rl.json"), lines(folder / "rl" / "log.jsonl")
        ),
    ),
    "train": Command(
        training,
        "run/log.jsonl",
        8,
        lambda folder: checkpoint(
            folder / "run",
            whole(folder / "run" / "report.json"),
            lines(folder / "run" / "log.jsonl"),
        ),
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands begin with: a tiny random checkpoint, labels of it, a
    tokenizer.
    """
    folder = tmp_path_factory.mktemp("given")
    make("llada", folder / "llada")
    assert run_credit(collecting(folder, folder)).status == 0
    (folder / "tokenizer").mkdir()
    task_tokenizer(load_tasks("facts"), TrainConfig().vocabulary, folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Any]]:
    """The result of a command that nothing stopped."""
    known: dict[str, Any] = {}

    def result(name: str) -> Any:
        if name not in known:
            folder = tmp_path_factory.mktemp("undisturbed")
            ended = run_credit(COMMANDS[name].arguments(model, folder))
            assert ended.status == 0, ended.stderr
            known[name] = COMMANDS[name].result(folder)
        return known[name]

    yield result


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_stopped_goes_on(
    name: str,
    number: signal.Signals,
    model: Path,
    undisturbed: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    command = COMMANDS[name]
    arguments = command.arguments(model, tmp_path)
    jobs = ["--jobs", "2"] if name == "compare" else []
    ended = signalled(
        [*arguments, *jobs],
        Moment(tmp_path, command.growing, command.lines, number),
        tmp_path / "log",
    )
    if number == signal.SIGKILL:
        assert ended.status == -signal.SIGKILL
    else:
        assert ended.status == 130
        assert re.search(
            r"stopped at \d+ of \d+; the same command goes on( from \d+)?\n$", ended.stderr
        ), ended.stderr
        assert "Traceback" not in ended.stderr
    assert ended.alone(), "a process that the command started is still there"
    again = run_credit(arguments)
    assert again.status == 0, again.stderr
    assert command.result(tmp_path) == undisturbed(name)
    assert not [*tmp_path.glob("*.partial")]


def test_sigterm_is_like_ctrl_c_but_for_the_status(model: Path, tmp_path: Path) -> None:
    command = COMMANDS["eval"]
    moment = Moment(tmp_path, command.growing, command.lines, signal.SIGTERM)
    ended = signalled(command.arguments(model, tmp_path), moment, tmp_path / "log")
    assert ended.status == 143
    assert re.fullmatch(r"stopped at \d+ of 40; the same command goes on\n", ended.stderr)


def test_processes_that_share_a_step_end_without_a_word(model: Path, tmp_path: Path) -> None:
    command = COMMANDS["train"]
    moment = Moment(tmp_path, command.growing, 5, signal.SIGINT)
    ended = signalled(
        [*command.arguments(model, tmp_path), "--steps", "4000", "--processes", "2"],
        moment,
        tmp_path / "log",
    )
    assert ended.status == 130 and ended.alone()
    assert re.search(
        r"stopped at \d+ of 4000; the same command goes on( from \d+)?\n$", ended.stderr
    ), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_keeps_nothing_says_so(
    number: signal.Signals, status: int, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: the signal comes while the third answer is judged."""

    def judged(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(number)
        return judge(*arguments)

    calls: list[int] = []
    judge = runner.score_answer
    monkeypatch.setattr(runner, "score_answer", judged)
    monkeypatch.setattr(app, "end_at_once_next_time", lambda: None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ended = run_credit(
            ["eval", "-m", model / "llada", "--tasks", "algebra", "--limit", "8", *SHORT]
        )
    finally:
        assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
    assert (ended.status, ended.stdout, ended.stderr) == (status, "", "interrupted\n")


def test_what_was_switched_off_stays_off() -> None:
    """A command behind nohup, or in the background of a script, does not hear Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_as_exceptions():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
