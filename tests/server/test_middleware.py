"""Keys, sizes and types of bodies, methods, and what is not HTTP."""

from __future__ import annotations

import json

import pytest

from creditdecoding.lm import LM
from creditdecoding.server import middleware
from tests.helpers.serving import (
    CHAT,
    SMALL_BODY,
    TEXT,
    Served,
    error_of,
    serving,
)
from tests.helpers.wire import (
    QUESTION,
    head,
    post_head,
    send,
    send_until,
)


@pytest.mark.parametrize(
    "path", ["/", "/health", "/v1/models", "/v1/models/pocket", "/metrics", "/openapi.json"]
)
def test_head_is_get_without_the_body(path: str, served: Served) -> None:
    get = served.client.get(path)
    response = send(served, head("HEAD", path, connection="close"))
    assert (response.status, response.body) == (200, b"")
    assert response.headers["content-type"] == get.headers["content-type"]
    if path != "/metrics":
        assert response.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), (CHAT, 405)])
def test_head_of_what_is_not_there(path: str, status: int, served: Served) -> None:
    response = send(served, head("HEAD", path, connection="close"))
    assert (response.status, response.body) == (status, b"")


def test_other_paths_methods_and_types(served: Served) -> None:
    error_of(served.client.get("/v1/nothing"), 404)
    error_of(served.client.get(CHAT), 405)
    assert "application/json" in error_of(served.client.post(CHAT, data={"a": "b"}))["message"]
    error_of(served.client.post(TEXT, json={"prompt": [10**6]}))
    assert served.client.get("/health").json() == {"status": "ok"}


# What is not HTTP ------------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"a: b\r\n" * 20_000,
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n",
        post_head(content_length="-1"),
        post_head(content_length="1x"),
        post_head(transfer_encoding="gzip"),
        post_head(transfer_encoding="chunked") + b"zz\r\n",
        post_head(transfer_encoding="chunked") + b"1\r\n \r\n" * 2000,
    ],
    ids=lambda request: repr(request[:30]),
)
def test_what_is_not_http(
    request_bytes: bytes, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    send(served, request_bytes).error(400)
    assert "Traceback" not in caplog.text


def test_small_chunks_and_single_bytes_are_read(served: Served) -> None:
    content = json.dumps(QUESTION).encode()
    pieces = [content[start : start + 3] for start in range(0, len(content), 3)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    chunked = post_head(transfer_encoding="chunked", connection="close")
    assert send(served, chunked + chunks + b"0\r\n\r\n").status == 200
    spaces = 300
    whole = post_head(content_length=str(len(content) + spaces), connection="close")
    single_bytes = (bytes([byte]) for byte in b" " * spaces + content)
    assert send(served, whole, *single_bytes).status == 200


# Sizes ------------------------------------------------------------


@pytest.mark.parametrize("size", [SMALL_BODY + 1, 1_500_000, 10**15])
def test_too_large_bodies_are_refused_before_they_have_come(
    size: int, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "DRAIN_SECONDS", 0.05)
    declared = post_head(content_length=str(size))
    chunk = b"%x\r\n%s\r\n" % (SMALL_BODY + 1, b"x" * (SMALL_BODY + 1))
    chunked = post_head(transfer_encoding="chunked")
    waiting = post_head(content_length=str(size), expect="100-continue")
    for parts in (
        (declared, b"x" * min(size, 1_500_000)),
        (chunked, chunk, b"0\r\n\r\n"),
        (waiting,),
    ):
        assert "too large" in send_until(served, *parts, status=413).error(413)["message"]


def test_large_bodies_with_and_without_their_length(served: Served) -> None:
    headers = {"content-type": "application/json"}
    for content in (b"x" * (SMALL_BODY + 1), iter([b"x" * 60_000] * 3)):
        response = served.client.post(CHAT, content=content, headers=headers)
        assert "too large" in error_of(response, 413)["message"]
    assert served.text(max_tokens=8)


# The key ------------------------------------------------------------


def test_the_key_is_asked_for_under_v1_alone(lm: LM) -> None:
    with serving(lm, api_key="sesame") as served:
        client = served.client
        for wrong in (b"Bearer wrong", b"Basic sesame", b"Bearer s\xe9same"):
            response = client.get("/v1/models", headers={"authorization": wrong})
            assert error_of(response, 401)["code"] == "invalid_api_key"
        error_of(client.get("/v1/models"), 401)
        error_of(client.post(CHAT, json={}), 401)
        right = {"authorization": "Bearer sesame"}
        assert client.get("/v1/models", headers=right).status_code == 200
        assert client.get("/health").status_code == 200
        assert client.get("/").status_code == 200
