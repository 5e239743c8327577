"""Files of requests: every line one row in its place, equal to the server's answer, whatever the
line holds and whenever the run is killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creditdecoding.batch.input import Line, custom_id, parse_line, parse_request, read_lines
from creditdecoding.batch.job import BatchJob, BatchSummary, plan_job, run_job
from creditdecoding.batch.options import BatchConfig
from creditdecoding.batch.processor import BatchProcessor, Reply
from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.errors import CreditError, OptionError
from creditdecoding.lm import LM, load
from tests.helpers.cli import run_credit
from tests.helpers.serving import PROMPTS, Sick, serving, with_model

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket")


def chat(name: str, prompt: str = PROMPTS[0], **fields: Any) -> str:
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 16, **fields}
    return json.dumps({"custom_id": name, "method": "POST", "url": CHAT, "body": body})


def text(name: str, **fields: Any) -> str:
    return json.dumps(
        {
            "custom_id": name,
            "method": "POST",
            "url": TEXT,
            "body": {"prompt": "Tom has", "max_tokens": 8, **fields},
        }
    )


def made(folder: Path, *written: str | bytes, **options: Any) -> BatchJob:
    source = folder / "in.jsonl"
    source.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else line.encode() for line in written)
    )
    os.utime(source, (10**9, 10**9))
    serve = ServeConfig(max_waiting=options.pop("max_waiting", 64))
    return plan_job(
        source,
        folder / options.pop("out", "out.jsonl"),
        "pocket",
        BatchConfig(**options),
        EngineConfig(),
        serve,
    )


def counted(_: int, __: int) -> Callable[[], None]:
    return lambda: None


def done(lm: LM, planned: BatchJob) -> list[dict[str, Any]]:
    run_job(planned, BatchProcessor(lm, planned.settings).answers, counted)
    assert not planned.run_dir.exists() and planned.done
    return rows(planned.output_path)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_row_is_what_the_server_answers(lm: LM, tmp_path: Path) -> None:
    requests = [
        chat("greedy", PROMPTS[1], logprobs=False),
        chat("drawn", temperature=0.7, seed=5, n=2),
        text("text", prompt=["Tom has", "Ann has"], decoder="fixed:k=2", stop=["."]),
        chat("field", max_token=3),
        chat("type", temperature="hot"),
        chat("long", max_tokens=100_000),
        chat("empty", ""),
        chat("other", model="another"),
        text("ids", prompt=[10**6]),
    ]
    answered = done(lm, made(tmp_path, *requests))
    with serving(lm) as served:
        for line, row in zip(map(json.loads, requests), answered):
            answer = served.client.post(line["url"], json=line["body"])
            own_body, other = row["response"]["body"], answer.json()
            for changing in ("id", "created"):
                own_body.pop(changing, None), other.pop(changing, None)
            assert row["custom_id"] == line["custom_id"] and row["error"] is None
            assert (row["response"]["status_code"], own_body) == (answer.status_code, other)


BAD: list[tuple[bytes, str | None, str]] = [
    (b"nonsense", None, "line 1 is not JSON"),
    (b'{"custom_id": "\xff"}', None, "line 1 is not UTF-8"),
    (b"[1]", None, "line 1 is not a JSON object"),
    (
        b'{"custom_id": "\\ud800", "method": "POST", "url": "/v1/completions", "body": {}}',
        None,
        "custom_id",
    ),
    (
        b'{"custom_id": 7, "method": "POST", "url": "/v1/completions", "body": {}}',
        None,
        "custom_id",
    ),
    (b'{"custom_id": "a", "method": "POST", "url": "/v1/completions"}', "a", "has no body"),
    (b'{"custom_id": "a", "method": "GET", "url": "/v1/completions", "body": {}}', "a", "'GET'"),
    (
        b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {}}',
        "a",
        "'/v1/embeddings'",
    ),
    (
        b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": []}',
        "a",
        "body is not",
    ),
    (
        b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {}, "bodi": 1}',
        "a",
        "'bodi'",
    ),
    (b"[" * 100_000, None, "is not JSON"),
    (b'"' + b"x" * 2**20 + b'"', None, "too long"),
]


def test_a_bad_line_is_an_error_in_its_place(lm: LM, tmp_path: Path) -> None:
    for i, (line, name, message) in enumerate(BAD):
        answered = done(lm, made(tmp_path, line, b"", b"  \r", text("good"), out=f"{i}.jsonl"))
        assert [row["custom_id"] for row in answered] == [name, "good"] and answered[1]["response"][
            "status_code"
        ] == 200
        assert (
            answered[0]["response"] is None
            and answered[0]["error"]["code"] == "invalid_line"
            and message in answered[0]["error"]["message"]
        )


@pytest.mark.parametrize("field", [{"stream": True}, {"draft": True}, {"stream_options": {}}])
def test_streams_are_refused_by_name(lm: LM, tmp_path: Path, field: dict[str, Any]) -> None:
    (row,) = done(lm, made(tmp_path, chat("s", **field)))
    assert row["response"]["status_code"] == 400 and row["response"]["body"]["error"][
        "param"
    ] == next(iter(field))


def test_nan_ends_one_row(lm: LM, tmp_path: Path) -> None:
    sick = with_model(lm, Sick(lm.model, lm.encode("Zq", raw=True)[-1], -1))
    answered = done(
        sick,
        made(
            tmp_path,
            text("a", cache="none"),
            text("b", prompt="Zq", cache="none"),
            text("c", cache="none"),
        ),
    )
    assert [row["response"]["status_code"] for row in answered] == [200, 500, 200]
    assert answered[1]["response"]["body"]["error"]["code"] == "model_failed"


def test_the_same_custom_id_twice_is_refused_with_its_lines(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'a' in lines 1, 4"):
        made(tmp_path, text("a"), "", text("b"), text("a"))


def test_files_that_cannot_be_used_are_refused(lm: LM, tmp_path: Path) -> None:
    planned = made(tmp_path, text("a"))
    for source, out in (
        (tmp_path / "no", "out"),
        (planned.input_path, "in.jsonl"),
        (planned.input_path, "no/out"),
        (planned.input_path, "."),
    ):
        with pytest.raises(OptionError):
            plan_job(source, tmp_path / out, "pocket", BatchConfig(), EngineConfig(), ServeConfig())
    planned.output_path.write_text("mine\n")
    with pytest.raises(OptionError, match="exists already"):
        _ = planned.done
    planned.output_path.unlink()
    assert not done(lm, made(tmp_path, out="empty.jsonl"))


class Killed(BaseException):
    """As good as SIGKILL between two rows."""


def test_a_run_that_ends_anywhere_goes_on(lm: LM, tmp_path: Path) -> None:
    requests = [chat(f"r{i}", PROMPTS[i % 5], temperature=0.5 * (i % 2)) for i in range(9)] + [
        "bad"
    ]
    undisturbed = made(tmp_path, *requests, out="whole.jsonl")
    done(lm, undisturbed)
    broken = made(tmp_path, *requests, max_waiting=2)
    began: list[int] = []

    def some(left: Iterable[Line]) -> Iterator[Reply]:
        for i, reply in enumerate(BatchProcessor(lm, broken.settings).answers(left)):
            if i == 3:
                raise Killed
            yield reply

    def start(already: int, _: int) -> Callable[[], None]:
        began.append(already)
        return lambda: None

    for _ in range(2):
        with pytest.raises(Killed):
            run_job(broken, some, start)
        with open(broken.run_dir / "samples.0.jsonl", "ab") as file:
            file.write(b'{"line": 9, "ro')
    assert not broken.output_path.exists()
    with pytest.raises(OptionError, match="name"):
        run_job(made(tmp_path, *requests, name="another"), some, start)
    with pytest.raises(OptionError, match="input"):
        run_job(made(tmp_path, *requests, "more"), some, start)
    run_job(made(tmp_path, *requests), BatchProcessor(lm, broken.settings).answers, start)
    assert (
        began == [0, 3, 6]
        and broken.output_path.read_bytes() == undisturbed.output_path.read_bytes()
    )


def test_rows_are_held_to_the_lines_whoever_answers(tmp_path: Path) -> None:
    planned = made(tmp_path, *(text(str(i)) for i in range(4)))

    def reply(i: int) -> Reply:
        return i, {
            "id": planned.settings.row_id(i),
            "custom_id": str(i),
            "response": None,
            "error": {},
        }

    with pytest.raises(CreditError, match="2 lines were not answered"):
        run_job(planned, lambda _: iter([reply(3), reply(1), reply(3)]), counted)
    assert run_job(
        planned, lambda left: iter([reply(line.index) for line in left] * 2), counted
    ) == BatchSummary(4, 4, 0, 0)
    assert [row["custom_id"] for row in rows(planned.output_path)] == ["0", "1", "2", "3"]


def test_lines_are_taken_as_there_is_room(lm: LM, tmp_path: Path) -> None:
    planned = made(tmp_path, *(text(str(i)) for i in range(60)), max_waiting=3)
    taken = 0

    def watched() -> Iterator[Line]:
        nonlocal taken
        for line in read_lines(planned.input_path, 2**20):
            taken += 1
            yield line

    replies = BatchProcessor(lm, planned.settings).answers(watched())
    next(replies)
    assert taken <= 16 + 2 * 3
    replies.close()


NAMES = st.sampled_from(["custom_id", "method", "url", "body", "x"])
VALUES = st.recursive(
    st.none() | st.text(max_size=8) | st.integers(),
    lambda values: st.dictionaries(NAMES, values, max_size=5),
)
LINES = st.binary(max_size=80) | VALUES.map(lambda value: json.dumps(value).encode())


@settings(max_examples=60, deadline=None)
@given(LINES)
def test_any_line_is_a_request_or_refused(data: bytes) -> None:
    line = Line(0, 1, data)
    try:
        value = parse_line(line, 2**20)
        url, body = parse_request(value, line)
    except OptionError as error:
        assert "line 1" in str(error)
    else:
        assert custom_id(value) and url in (CHAT, TEXT) and isinstance(body, dict)


@pytest.mark.parametrize("most", [1, 5, 64])
def test_lines_are_split_like_any_reader_does(tmp_path: Path, most: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(
        b"\xef\xbb\xbfab\r\n\n" + b"c" * 40 + b"\n   \nd\n" + b"e" * 5 + b"\n" + b" " * 99 + b"{}"
    )
    lines_read = list(read_lines(path, most))
    assert [(line.index, line.number) for line in lines_read] == [
        (0, 1),
        (1, 3),
        (2, 5),
        (3, 6),
        (4, 7),
    ]
    whole = [b"ab", b"c" * 40, b"d", b"e" * 5, b" " * 99 + b"{}"]
    assert all(
        len(line.data) > most if len(text) > most else line.data == text
        for line, text in zip(lines_read, whole)
    )


def test_the_command_answers_a_file_and_says_so(tmp_path: Path) -> None:
    """That it survives a kill is in test_interrupt.py."""
    source = made(
        tmp_path, *(chat(f"r{i}", PROMPTS[i], max_tokens=8) for i in range(3)), "bad"
    ).input_path
    command = ["batch", source, tmp_path / "out.jsonl", "--threads", "1"]
    done = run_credit(command)
    assert done.status == 0 and "4 answers, 1 of them errors" in done.stderr
    assert [row["custom_id"] for row in rows(tmp_path / "out.jsonl")] == ["r0", "r1", "r2", None]
    assert "complete already" in run_credit(command).stderr
