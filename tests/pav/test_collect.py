"""Labels for a verifier: a store that survives anything, strategies, the same labels in any
company, and what is computed once.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.fingerprint import Identity
from creditdecoding.lm import LM, load
from creditdecoding.pav.data import label_store as store
from creditdecoding.pav.data.collect import LabelledProblem, collect, fill, header, problems_of
from creditdecoding.pav.data.label_store import Label, LabelCost, StoreHeader, open_store
from creditdecoding.pav.data.options import CollectConfig
from creditdecoding.pav.data.strategies import STRATEGIES, rollout_requests, seed_of
from creditdecoding.pav.driver import Sample
from creditdecoding.pav.problems import Problem, ProblemKey
from creditdecoding.pav.sampler import Cost, Rollout, RolloutRequest
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.tasks import load_tasks
from creditdecoding.trace import Trace
from tests.helpers.cli import run_credit

pytestmark = pytest.mark.slow

GENERATION = GenerationConfig(decoder="threshold:threshold=0.4", temperature=1.5, gen_length=96)
SMALL = CollectConfig(n_cov=2, n_mc=3, limit=2)


@pytest.fixture(scope="module")
def lm() -> LM:
    """The first embedded model, which is wrong more often."""
    return load("pocket-v1", batch_size=16)


# The store

HEAD = StoreHeader(
    Identity("m", "t"), {"model": "pocket", "tasks": ["b", "a"], "n_mc": 8, "stop": ()}, 3
)
KEYS = [("a", 0), ("b", 1), ("b", 0)]


def some(key: ProblemKey) -> list[Label]:
    states = [
        PartialAnswer((1, 2)),
        PartialAnswer((1, 2), (5, 6), (2,)),
        PartialAnswer((1, 2), (5, 6, 7), (2, 3), True, "stop"),
    ]
    return [
        Label(*key, state, i, 8 - 7 * state.done)
        for i, state in enumerate(states[::2] if key[1] else states[:2])
    ][: 2 - (key == KEYS[0])]


def drawn_answers(key: ProblemKey) -> list[Label]:
    """Complete answers, one of them drawn three times."""
    ends = [PartialAnswer((1, 2), (5, 6, last), (2, 3), True, "stop") for last in (7, 8)]
    return [Label(*key, ends[0], 3, 3), Label(*key, ends[1], 0, 1)]


def made(path: Path, keys: list[ProblemKey] = KEYS) -> Path:
    with open_store(path, HEAD) as target:
        for key in keys:
            if key not in target.contents.labels:
                bill = LabelCost(4, Cost(3, 2, 20, 9), 0.5)
                target.add(key, some(key), bill, drawn_answers(key))
    return path


def test_a_store_gives_back_what_it_was_given_in_the_order_of_its_tasks(tmp_path: Path) -> None:
    labels = store.load_labels(made(tmp_path / "s.jsonl"))
    assert labels.labels == tuple(
        label for key in (("b", 0), ("b", 1), ("a", 0)) for label in some(key)
    )
    assert labels.identity == HEAD.identity and labels.settings["n_mc"] == 8
    order = (("b", 0), ("b", 1), ("a", 0))
    assert labels.outcomes == labels.answers
    assert labels.answers == tuple(answer for key in order for answer in drawn_answers(key))
    end = json.loads((tmp_path / "s.jsonl").read_text().splitlines()[-1])
    assert (end["problems"], end["labels"], end["rollouts"], end["sequences"], end["seconds"]) == (
        3,
        len(labels.labels),
        12,
        6,
        1.5,
    )


def test_wherever_a_store_is_cut_off_it_goes_on_and_holds_nothing_twice(tmp_path: Path) -> None:
    whole = made(tmp_path / "whole.jsonl").read_bytes()
    path = tmp_path / "s.jsonl"
    for size in range(0, len(whole), 5):
        path.write_bytes(whole[:size])
        with pytest.raises(
            OptionError, match="is empty" if not size else "no end|not a store"
        ) as caught:
            store.load_labels(path)
        assert "\n" not in str(caught.value)
        if size % 55 == 0:
            assert (
                store.load_labels(made(path)) == store.load_labels(tmp_path / "whole.jsonl")
                and path.read_bytes() == whole
            )
    assert made(path).read_bytes() == whole, "a finished one stays as it is"


def test_a_store_of_version_1_is_read_and_its_answers_are_its_labels_of_complete_ones(
    tmp_path: Path,
) -> None:
    path = made(tmp_path / "s.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0]["version"] = 1
    old = [record for record in records if record["kind"] != "answer"]
    for record in old:
        record.pop("answers", None)
    path.write_text("".join(json.dumps(record) + "\n" for record in old))
    labels = store.load_labels(path)
    assert labels.labels == store.load_labels(made(tmp_path / "new.jsonl")).labels
    assert labels.answers == ()
    assert labels.outcomes == tuple(label for label in labels.labels if label.state.done) != ()


def test_a_store_that_an_earlier_version_began_goes_on(tmp_path: Path) -> None:
    path = made(tmp_path / "s.jsonl", KEYS[:1])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0]["version"] = 1
    old = [record for record in records if record["kind"] != "answer"]
    del old[-1]["answers"]
    path.write_text("".join(json.dumps(record) + "\n" for record in old))
    labels = store.load_labels(made(path))
    assert labels.labels == store.load_labels(made(tmp_path / "new.jsonl")).labels
    assert labels.answers == tuple(
        answer for key in (("b", 0), ("b", 1)) for answer in drawn_answers(key)
    )
    ends = tuple(label for label in some(KEYS[0]) if label.state.done)
    assert labels.outcomes == (*labels.answers, *ends)


def changed(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda record: {**record, **values}


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (1, changed(wins=9), r"line 2 .*9 of 8 is outside \[0, 1\]"),
        (1, changed(wins=-1), r"outside \[0, 1\]"),
        (1, changed(wins=0, draws=0), r"outside \[0, 1\]"),
        (1, changed(wins=0.5), "0.5 is not a whole number"),
        (1, changed(ends=[3, 2]), "it is not a state"),
        (1, changed(kind="step"), "it is not a label"),
        (1, lambda record: {"kind": "label"}, "line 2 .* is broken"),
        (4, changed(labels=7), "line 5 .*labels of its problem are missing"),
        (4, changed(answers=1), "line 5 .*answers of its problem are missing"),
        (6, changed(family="a"), "line 10 .*labels of its problem are missing"),
        (0, changed(kind="trace"), "not a store of labels but 'trace'"),
        (0, changed(version=3), "version 3"),
        (2, changed(done=False), "line 3 .* is not a complete answer"),
        (0, lambda record: [], "not a store of labels but something else"),
        (-1, changed(labels=2), "problems before it are missing"),
    ],
)
def test_what_is_no_store_is_refused_with_the_line(
    tmp_path: Path, line: int, change: Callable[[Any], Any], message: str
) -> None:
    path = made(tmp_path / "s.jsonl")
    lines = path.read_text().splitlines()
    lines[line] = json.dumps(change(json.loads(lines[line])))
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(OptionError, match=message):
        store.load_labels(path)
    path.write_text(path.read_text() + lines[1] + "\n")
    with pytest.raises(OptionError):
        made(path)


def test_a_broken_line_and_a_doubled_problem_are_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "s.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "{", *lines[2:]]) + "\n")
    with pytest.raises(OptionError, match="line 3 of"):
        store.load_labels(path)
    path.write_text("\n".join([*lines[:5], *lines[1:]]) + "\n")
    with pytest.raises(OptionError, match=r"line 9 .*there twice"):
        store.load_labels(path)
    with pytest.raises(OptionError, match="cannot be read"):
        store.load_labels(tmp_path / "none.jsonl")


def test_a_store_of_other_settings_another_model_or_in_use_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "s.jsonl", KEYS[:1])
    for head, message in (
        (
            dataclasses.replace(HEAD, settings={**HEAD.settings, "n_mc": 4, "top_k": 2}),
            r"n_mc: 8 there, 4 here; top_k: null there, 2 here",
        ),
        (dataclasses.replace(HEAD, identity=Identity("m", "u")), "another model or tokenizer"),
        (dataclasses.replace(HEAD, problems=4), "problems"),
    ):
        with pytest.raises(OptionError, match=message), open_store(path, head):
            pass
    with open_store(
        path, dataclasses.replace(HEAD, settings={**HEAD.settings, "model": "elsewhere"})
    ) as target:
        assert set(target.contents.labels) == {KEYS[0]}
        with pytest.raises(OptionError, match="another run is at work"), open_store(path, HEAD):
            pass
    other = tmp_path / "notes.txt"
    other.write_text("my notes")
    with pytest.raises(OptionError, match="not a store"):
        made(other)
    assert other.read_text() == "my notes"


def test_a_full_disk_costs_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limit[1]))
    try:
        with pytest.raises(OptionError, match="the disk refused"):
            made(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert path.stat().st_size == 600
    assert (
        store.load_labels(made(path)).labels
        == store.load_labels(made(tmp_path / "whole.jsonl")).labels
    )


# What is labelled


def run_strategy(
    problem: Problem, config: CollectConfig, answer: Callable[[RolloutRequest], tuple[int, ...]]
) -> tuple[list[Label], int]:
    """The labels of a strategy whose rollouts are known (one id a step), and how many it drew."""
    strategy = STRATEGIES[config.strategy](problem, config)
    count = 0
    rollouts: list[Rollout] | None = None
    while True:
        try:
            sample = strategy.send(rollouts)
        except StopIteration as stop:
            labels: list[Label] = stop.value
            break
        assert isinstance(sample, Sample)
        count += len(sample.requests)
        rollouts = []
        for request in sample.requests:
            ids = answer(request)
            assert ids[: len(request.state.written)] == request.state.written
            ends = tuple(range(1, len(ids) + 1))
            state = PartialAnswer((1,), ids, ends, True, "stop")
            rollouts.append(Rollout(state, Cost(), 0.0, Trace(())))
    assert len({label.state for label in labels}) == len(labels)
    return labels, count


def counts_by_ids(labels: list[Label]) -> dict[tuple[int, ...], tuple[int, int]]:
    """Wins and draws of the unfinished states."""
    return {
        label.state.written: (label.wins, label.draws) for label in labels if not label.state.done
    }


def test_random_labels_every_prefix_of_the_first_answers() -> None:
    problem = Problem((1,), ".", key=("f", 0), is_correct=lambda ids: ids[-1] == 9)
    config = CollectConfig(n_cov=2, n_mc=3)
    labels, count = run_strategy(
        problem, config, lambda request: (*request.state.written, 2, 3, 9)[:3]
    )
    assert counts_by_ids(labels) == {(): (3, 3), (2,): (0, 3), (2, 3): (0, 3)}
    assert count == 2 + 3 * 3
    answers = [
        (label.state.written, label.wins, label.draws) for label in labels if label.state.done
    ]
    assert answers == [((2, 3, 9), 5, 5)], "drawn from the prompt five times"


def test_first_pit_follows_wrong_answers_to_promising_states_up_to_the_first_without_hope() -> None:
    """Right is 1 1 1; the second completion of a state goes wrong at once (id 7), and nothing that
    has a 7 is right.
    """
    problem = Problem((1,), ".", key=("f", 0), is_correct=lambda ids: ids == (1, 1, 1))
    draw_number = {
        request.seed: number
        for depth in range(3)
        for number, request in enumerate(
            rollout_requests(problem, PartialAnswer((1,), (1,) * depth), "complete", 2)
        )
    }

    def answer(request: RolloutRequest) -> tuple[int, ...]:
        written = request.state.written
        rest = 3 - len(written)
        if 7 in written:
            return (*written, *(5,) * rest)
        if draw_number[request.seed] == 0:
            return (*written, *(1,) * rest)
        return (*written, *(1,) * (rest - 2), *(7, 1)[:rest])

    config = CollectConfig(strategy="first_pit", n_cov=1, n_mc=2)
    labels, count = run_strategy(problem, config, answer)
    assert counts_by_ids(labels) == {(): (1, 2), (1,): (1, 2), (1, 7): (0, 2)}
    assert count == 6
    assert {label.state.written for label in labels if label.state.done} == {(1, 1, 1), (1, 7, 1)}
    more, _ = run_strategy(problem, dataclasses.replace(config, n_cov=9), answer)
    assert (1, 7) in counts_by_ids(more)
    assert (7,) not in {label.state.written for label in more}
    none, count = run_strategy(problem, dataclasses.replace(config, promising=0.5), answer)
    assert count == 2 and [*counts_by_ids(none)] == [()]


def test_seeds_depend_on_what_is_drawn_alone() -> None:
    assert seed_of(1, "a") == seed_of(1, "a") != seed_of(1, "b") and 0 <= seed_of(2) <= 2**62


# Runs


def labels_of(problems: list[LabelledProblem]) -> dict[ProblemKey, tuple[Label, ...]]:
    return {problem.key: problem.labels for problem in problems}


def answers_of(problems: list[LabelledProblem]) -> dict[ProblemKey, tuple[Label, ...]]:
    return {problem.key: problem.answers for problem in problems}


@pytest.mark.parametrize("strategy", ["random", "first_pit"])
def test_labels_are_the_same_for_any_batch_size(lm: LM, strategy: str) -> None:
    config = dataclasses.replace(SMALL, strategy=strategy, limit=1)
    problems = problems_of(lm, load_tasks("arithmetic,algebra"), config, GENERATION)
    one, *others = [[*collect(lm, problems, config, GENERATION, size)] for size in (64, 1)]
    assert len(one) == 2 and all(labels_of(one) == labels_of(other) for other in others)
    assert all(answers_of(one) == answers_of(other) for other in others)
    for problem in one:
        assert (
            sum(label.draws for label in problem.labels if not label.state.done)
            <= problem.cost.rollouts
        )
        assert all(label.draws == config.n_mc for label in problem.labels if not label.state.done)
        assert sum(answer.draws for answer in problem.answers) == problem.cost.rollouts, (
            "every judged answer is kept"
        )
        assert all(
            answer.state.done and answer.wins in (0, answer.draws) for answer in problem.answers
        )
        assert {answer.state for answer in problem.answers} >= {
            label.state for label in problem.labels if label.state.done
        }
        ends = sum(label.draws for label in problem.labels if label.state.done)
        assert ends == config.n_cov + config.n_mc if strategy == "random" else ends >= config.n_mc
    alone, shared = (
        sum(problem.cost.cost.sequences for problem in others[0]),
        sum(problem.cost.cost.sequences for problem in one),
    )
    passes = {sum(problem.cost.cost.passes for problem in run) for run in (one, *others)}
    assert passes == {alone} and shared < 0.8 * alone, "what draws have in common is computed once"


def test_the_command_labels_and_reports(lm: LM, tmp_path: Path) -> None:
    """That it survives a kill is in test_interrupt.py."""
    path = tmp_path / "s.jsonl"
    command = [
        "--model",
        "pocket-v1",
        "--limit",
        "2",
        "--n-cov",
        "2",
        "--n-mc",
        "2",
        "--decoder",
        "threshold:threshold=0.4",
        "--temperature",
        "1.5",
        "--gen-length",
        "64",
    ]
    done = run_credit(
        ["pav", "collect", path, *command, "--batch-size", "4", "--threads", "1", "--json"]
    )
    assert done.status == 0, done.stderr
    report, stored = json.loads(done.stdout), store.load_labels(path)
    assert (
        report["problems"] == 2
        and report["labels"] == len(stored.labels)
        and report["rollouts_per_second"] > 0
    )
    config, generation = (
        CollectConfig(n_cov=2, n_mc=2, limit=2),
        dataclasses.replace(GENERATION, gen_length=64),
    )
    whole = labels_of(
        [
            *collect(
                lm,
                problems_of(lm, load_tasks("arithmetic"), config, generation),
                config,
                generation,
            )
        ]
    )
    assert stored.labels == tuple(label for key in sorted(whole) for label in whole[key])


def test_what_cannot_be_labelled_is_refused(lm: LM) -> None:
    tasks = load_tasks("arithmetic")
    for options, message in (
        ({"temperature": 0.0}, "temperature above 0"),
        ({"top_k": 1}, "top_k 1"),
        ({"gen_length": 5000}, "do not fit"),
    ):
        with pytest.raises(OptionError, match=message):
            problems_of(lm, tasks, SMALL, dataclasses.replace(GENERATION, **options))
    silent = [dataclasses.replace(tasks[0], step_delimiter="")]
    with pytest.raises(OptionError, match="does not say what ends a step"):
        problems_of(lm, silent, SMALL, GENERATION)
    with pytest.raises(OptionError, match="n_mc is out of range"):
        CollectConfig(n_mc=0)
    (problem, _) = problems_of(lm, silent, dataclasses.replace(SMALL, delimiter="\\n"), GENERATION)
    assert problem.delimiter == "\n"


def test_a_store_is_filled_and_says_how(lm: LM, tmp_path: Path) -> None:
    tasks = load_tasks("arithmetic")
    problems = problems_of(lm, tasks, SMALL, GENERATION)
    head = header(lm, "pocket", tasks, problems, SMALL, GENERATION, EngineConfig())
    with open_store(tmp_path / "s.jsonl", head) as target:
        fill(target, lm, problems, SMALL, GENERATION)
    stored = store.load_labels(tmp_path / "s.jsonl")
    assert stored.identity == head.identity and stored.settings["decoder"] == {
        "name": "threshold",
        "threshold": 0.4,
    }
    assert {label.problem for label in stored.labels} == {0, 1} and all(
        0 <= label.value <= 1 for label in stored.labels
    )
    assert sum(answer.draws for answer in stored.answers) == target.contents.cost.rollouts
