"""Long commands that are stopped on the way: the same command again continues, with the same result.

Every command is stopped by Ctrl-C, continued, killed, and continued to the end. Its files must then
equal those of an undisturbed run, apart from seconds.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.cli import app
from creditdecoding.cli.signals import signals_as_exceptions
from creditdecoding.eval import evaluate as runner
from creditdecoding.lm import load
from creditdecoding.pav.data.label_store import load_labels
from creditdecoding.tasks import load_tasks
from creditdecoding.train.options import TrainConfig
from creditdecoding.train.tokenizer import task_tokenizer
from tests.helpers.adaptations import write_conversations
from tests.helpers.cli import run_credit
from tests.helpers.process import SignalTrigger, run_until_signalled
from tests.helpers.tiny_bases import write_base
from tests.helpers.verifiers import some_labels, stored, written_verifier
from tools.make_checkpoint import make

pytestmark = pytest.mark.slow

TIMES = ("seconds", "outside_share", "tps", "rollouts_per_second", "throughput")
DEVICE = "--batch-size 2 --threads 1 --device cpu"
GREEDY = f"--gen-length 12 --block-length 4 --no-early-stop {DEVICE}"
SAMPLED = f"{GREEDY} --temperature 1.5 --decoder fixed"
STOPPED = re.compile(r"stopped at \d+ of \d+; the same command goes on( from \d+)?\n$")


def without_times(value: Any) -> Any:
    """JSON data without the entries that differ between equal runs."""
    if isinstance(value, dict):
        return {name: without_times(inner) for name, inner in value.items() if name not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def json_file(path: Path) -> Any:
    return without_times(json.loads(path.read_text()))


def json_lines(path: Path) -> list[Any]:
    return [without_times(json.loads(line)) for line in path.read_text().splitlines()]


def read_labels(path: Path) -> Any:
    store = load_labels(path)
    return store.identity, store.settings, store.labels


@dataclass(frozen=True)
class Command:
    """A long command: `growing` files get lines while it runs, and it is stopped when they have
    `stops[0]` lines, then killed when they have `stops[1]`. `result` reads its output.
    """

    arguments: str
    growing: str
    stops: tuple[int, int]
    result: Callable[[Path], Any]

    def line(self, inputs: Path, out: Path) -> list[str]:
        """The arguments; the command reads from the folder `inputs` and writes into `out`."""
        return shlex.split(self.arguments.format(model=inputs / "llada", inputs=inputs, out=out))


COMMANDS = {
    "eval": Command(
        "eval -m {model} --tasks algebra,facts --limit 4 --decoder fixed --out {out}/e.json "
        + GREEDY,
        "e.json.partial/samples.*.jsonl",
        (3, 6),
        lambda out: json_file(out / "e.json"),
    ),
    "compare": Command(
        "compare -m {model} --tasks algebra,facts --decoders 'fixed threshold:threshold=0.9' "
        "--limit 2 --dev-limit 2 --out {out}/run " + GREEDY,
        "run/samples.*.jsonl",
        (5, 11),
        lambda out: json_lines(out / "run" / "samples.jsonl"),
    ),
    "tune": Command(
        "tune -m {model} --tasks algebra --decoder 'fixed:k=2|3' --limit 6 --bound 20 "
        "--out {out}/d.yaml " + GREEDY,
        "d.yaml.partial/samples.*.jsonl",
        (5, 10),
        lambda out: (out / "d.yaml").read_text(),
    ),
    "batch": Command(
        "batch {inputs}/requests.jsonl {out}/answers.jsonl -m {model} " + DEVICE,
        "answers.jsonl.partial/samples.*.jsonl",
        (3, 6),
        lambda out: (out / "answers.jsonl").read_bytes(),
    ),
    "pav collect": Command(
        "pav collect {out}/labels.jsonl -m {model} --tasks algebra --limit 3 --n-cov 2 --n-mc 2 "
        "--delimiter '4 tokens' " + SAMPLED,
        "labels.jsonl",
        (6, 25),
        lambda out: read_labels(out / "labels.jsonl"),
    ),
    "pav train": Command(
        "pav train {inputs}/labels.jsonl -m {model} --out {out}/verifier --epochs 4 --fit-batch 2 "
        "--save-every 3 --threads 1 --device cpu",
        "verifier/log.jsonl",
        (5, 11),
        lambda out: (
            (out / "verifier" / "model.safetensors").read_bytes(),
            json_file(out / "verifier" / "verifier.json"),
            json_lines(out / "verifier" / "log.jsonl"),
        ),
    ),
    "pav measure": Command(
        "pav measure {inputs}/many.jsonl -m {model} --verifier {inputs}/judge --out {out}/m.json "
        + DEVICE,
        "m.json.partial/samples.*.jsonl",
        (1, 2),
        lambda out: json_file(out / "m.json"),
    ),
    "pav provers": Command(
        "pav provers {inputs}/many.jsonl -m {model} --verifier {inputs}/judge --k 1,4 "
        "--prover other={inputs}/judge --out {out}/p.json " + DEVICE,
        "p.json.partial/samples.*.jsonl",
        (2, 4),
        lambda out: json_file(out / "p.json"),
    ),
    "pav rl": Command(
        "pav rl -m {model} --out {out}/rl --tasks algebra --arm outcome --baseline others "
        "--iterations 5 --problems 2 --save-every 2 --eval-every 3 --eval-limit 1 "
        "--delimiter '4 tokens' " + SAMPLED,
        "rl/log.jsonl",
        (2, 4),
        lambda out: (
            (out / "rl" / "model.safetensors").read_bytes(),
            json_file(out / "rl" / "rl.json"),
            json_lines(out / "rl" / "log.jsonl"),
        ),
    ),
    "train": Command(
        "train --out {out}/run --tasks facts --hidden-size 32 --num-layers 1 --num-heads 2 "
        "--intermediate-size 32 --vocabulary 300 --steps 12 --batch-size 4 --drill-steps 2 "
        "--save-every 3 --eval-every 8 --no-compile --eval-limit 1 --report-limit 1",
        "run/log.jsonl",
        (5, 9),
        lambda out: (
            (out / "run" / "model.safetensors").read_bytes(),
            json_file(out / "run" / "report.json"),
            json_lines(out / "run" / "log.jsonl"),
        ),
    ),
    "adapt": Command(
        "adapt --base {inputs}/base --data {inputs}/chat.jsonl --out {out}/adapted --tokens 700 "
        "--buckets 136:32 --batch-positions 400 --rank 2 --no-compile --save-every 3 "
        "--eval-every 4 --eval-length 8 --held-out 1",
        "adapted/log.jsonl",
        (4, 8),
        lambda out: (
            (out / "adapted" / "adapter_model.safetensors").read_bytes(),
            json_lines(out / "adapted" / "log.jsonl"),
        ),
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands read: a tiny random checkpoint, requests, labels, a verifier
    and a tokenizer.
    """
    folder = tmp_path_factory.mktemp("inputs")
    make("llada", folder / "llada")
    bodies = [{"prompt": f"question {i}", "max_tokens": 16, "decoder": "fixed"} for i in range(8)]
    requests = [
        {"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}
        for i, body in enumerate(bodies)
    ]
    (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in requests))
    collected = run_credit(COMMANDS["pav collect"].line(folder, folder))
    assert collected.status == 0, collected.stderr
    lm = load(str(folder / "llada"))
    stored(some_labels(lm, problems=40), folder / "many.jsonl")
    written_verifier(lm, folder / "judge", model=str(folder / "llada"))
    write_base(folder / "base", max_position_embeddings=256)
    write_conversations(folder / "chat.jsonl")
    (folder / "tokenizer").mkdir()
    task_tokenizer(load_tasks("facts"), TrainConfig().vocabulary, folder / "tokenizer")
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_stopped_continues(
    name: str, inputs: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    command = COMMANDS[name]
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    if name == "train":
        for folder in (tmp_path, undisturbed):
            shutil.copytree(inputs / "tokenizer", folder / "run")
    arguments = command.line(inputs, tmp_path)
    for number, lines in zip((signal.SIGINT, signal.SIGKILL), command.stops):
        trigger = SignalTrigger(tmp_path, command.growing, lines, number)
        ended = run_until_signalled(arguments, trigger, tmp_path / "log")
        assert ended.leaves_nothing(), "a process that the command started is still there"
        assert "Traceback" not in ended.stderr
        if number == signal.SIGKILL:
            assert ended.status == -signal.SIGKILL
        else:
            assert ended.status == 130
            assert STOPPED.search(ended.stderr), ended.stderr
    last = run_credit(arguments)
    assert last.status == 0, last.stderr
    assert not [*tmp_path.rglob("*.partial")]
    assert run_credit(command.line(inputs, undisturbed)).status == 0
    assert command.result(tmp_path) == command.result(undisturbed)


def test_sigterm_is_like_ctrl_c_but_for_the_status(inputs: Path, tmp_path: Path) -> None:
    command = COMMANDS["eval"]
    trigger = SignalTrigger(tmp_path, command.growing, command.stops[0], signal.SIGTERM)
    ended = run_until_signalled(command.line(inputs, tmp_path), trigger, tmp_path / "log")
    assert ended.status == 143
    assert re.fullmatch(r"stopped at \d+ of 8; the same command goes on\n", ended.stderr)


@pytest.mark.parametrize(
    ("name", "endless"),
    [("train", "--steps 100000 --processes 2"), ("compare", "--limit 100 --jobs 2")],
)
def test_processes_of_a_command_end_without_a_word(
    name: str, endless: str, inputs: Path, tmp_path: Path
) -> None:
    command = COMMANDS[name]
    shutil.copytree(inputs / "tokenizer", tmp_path / "run")
    trigger = SignalTrigger(tmp_path, command.growing, 5, signal.SIGINT, elsewhere=True)
    arguments = [*command.line(inputs, tmp_path), *endless.split()]
    ended = run_until_signalled(arguments, trigger, tmp_path / "log")
    assert ended.status == 130 and ended.leaves_nothing()
    assert STOPPED.search(ended.stderr), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_keeps_nothing_says_so(
    number: signal.Signals, status: int, inputs: Path, monkeypatch: pytest.MonkeyPatch
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
    monkeypatch.setattr(app, "restore_default_signals", lambda: None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ended = run_credit(
            ["eval", "-m", inputs / "llada", "--tasks", "algebra", "--limit", "8", *GREEDY.split()]
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
