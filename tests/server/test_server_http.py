"""The server before a request is read: names, browsers, uptime checks, ids and log, what is not
HTTP.
"""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import torch

from creditdecoding.errors import OptionError
from creditdecoding.lm import LM, load
from creditdecoding.server.hosts import AllowedHosts
from creditdecoding.server.options import HttpConfig
from tests.helpers.cli import run_credit
from tests.helpers.serving import PROMPTS, Served, Slow, serving, wait, with_model
from tests.helpers.wire import complaint, dial, head, insist, tell

torch.set_num_threads(1)
CHAT = "/v1/chat/completions"
QUESTION = json.dumps(
    {"messages": [{"role": "user", "content": PROMPTS[1]}], "max_tokens": 8}
).encode()
HALF = head("POST", CHAT, content_type="application/json", content_length="100") + b'{"a'
SHORT = 0.05  # seconds


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket")


@pytest.fixture(scope="module")
def served(lm: LM) -> Iterator[Served]:
    with serving(lm, max_body=100_000) as served:
        yield served


# Names of the server
# -------------------------------------------------------------------------------------------------------------

OURS = [
    "localhost",
    "LocalHost:8000",
    "localhost.",
    "127.0.0.1",
    "127.1.2.3:9",
    "[::1]",
    "[::1]:8000",
    "[::ffff:127.0.0.1]",
    "a.localhost",
]
OTHERS = [
    "evil.example",
    "EVIL.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "192.0.2.7",
    "0.0.0.0",
    "[2001:db8::1]",
]
MALFORMED = [
    "",
    ":8000",
    "::1",
    "localhost:80:80",
    "localhost:http",
    "[::1",
    "[]",
    "localhost@evil.example",
    "a b",
    "localhost, evil.example",
]


@pytest.mark.parametrize(
    "path", ["/", "/health", "/metrics", "/openapi.json", "/v1/models", "/nothing"]
)
def test_another_name_reaches_nothing(path: str, served: Served) -> None:
    error = complaint(tell(served, head(path=path, host="evil.example")), 421)
    assert "'evil.example'" in error["message"] and "--allowed-host" in error["message"]
    assert tell(served, head(path=path, connection="close"))[0] in (200, 404)


@pytest.mark.parametrize("host", OURS + OTHERS + MALFORMED)
def test_names_of_a_server_on_loopback(host: str, served: Served) -> None:
    assert (host in AllowedHosts(HttpConfig())) == (host in OURS)
    status = tell(served, head(host=host, connection="close"))[0]
    assert status == (200 if host in OURS else 421)


def test_no_name_at_all(served: Served) -> None:
    complaint(tell(served, b"GET /health HTTP/1.1\r\n\r\n"), 400)
    assert tell(served, b"GET /health HTTP/1.0\r\n\r\n")[0] == 200, (
        "a check that is older than the header"
    )
    complaint(
        tell(served, b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n"), 400
    )


@pytest.mark.parametrize(
    ("options", "inside", "outside"),
    [
        (
            {"host": "0.0.0.0"},
            [*OURS, "0.0.0.0:80", "192.0.2.7", "[2001:db8::1]", socket.gethostname()],
            ["evil.example", *MALFORMED],
        ),
        ({"host": "::"}, ["[::]:8000", "192.0.2.7", "localhost"], ["evil.example"]),
        ({"host": "192.0.2.7"}, ["192.0.2.7:8000", "localhost"], ["evil.example"]),
        ({"host": "Box.lan"}, ["box.lan", "BOX.LAN.:80", "192.0.2.7"], ["lan", "evilbox.lan"]),
        (
            {"allowed_host": ("api.example.com", "::2")},
            ["API.example.com:443", "[::2]:1", "localhost"],
            ["example.com", "x.api.example.com"],
        ),
        (
            {"allowed_host": ("*.example.com",)},
            ["a.example.com", "a.b.example.com:1"],
            ["example.com", "evilexample.com"],
        ),
        ({"allowed_host": ("*",)}, ["evil.example", ""], []),
    ],
)
def test_names_of_other_servers(
    options: dict[str, Any], inside: list[str], outside: list[str]
) -> None:
    allowed = AllowedHosts(HttpConfig(**options))
    assert [host for host in inside if host not in allowed] == []
    assert [host for host in outside if host in allowed] == []


def test_a_name_that_is_allowed(lm: LM) -> None:
    with serving(lm, allowed_host=("model.example",)) as served:
        assert tell(served, head(host="model.example:80", connection="close"))[0] == 200
        assert "model.example" in complaint(tell(served, head(host="evil.example")), 421)["message"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": " "}, "host is empty"),
        ({"allowed_host": ("http://a.example",)}, "without scheme and port"),
        ({"allowed_host": ("a.example:80",)}, "without scheme and port"),
        ({"allowed_host": ("",)}, "not a name"),
        ({"allowed_host": ("*.*.example",)}, "not a name"),
        ({"cors_origin": ("app.example",)}, "not an origin"),
        ({"cors_origin": ("https://app.example/",)}, "without a path"),
        ({"cors_origin": ("https://*.example",)}, "not an origin"),
        ({"receive_timeout": 0.0}, "receive_timeout"),
        ({"max_connections": 0}, "max_connections"),
        ({"api_key": ""}, "api_key is not a key"),
        ({"api_key": "a\nb"}, "api_key is not a key"),
        ({"api_key": "a", "api_key_file": "b"}, "two keys"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=re.escape(said)):
        HttpConfig(**options)


# Browsers, uptime checks, operators
# ------------------------------------------------------------------------------------------------

APP = "https://app.example"


def test_pages_of_a_named_origin_may_call(lm: LM) -> None:
    with serving(
        lm, cors_origin=(APP, "http://localhost:3000"), api_key="sesame", max_body=1000
    ) as served:
        asked = {
            "origin": APP,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,x-stainless-os",
        }
        before = served.client.options(CHAT, headers=asked)
        assert before.status_code == 200 and before.headers["access-control-allow-origin"] == APP
        assert "authorization" in before.headers["access-control-allow-headers"]
        assert "x-stainless-os" in before.headers["access-control-allow-headers"]
        key = {"authorization": "Bearer sesame"}
        for status, response in [
            (401, served.client.get("/v1/models", headers={"origin": APP})),
            (200, served.client.get("/v1/models", headers={"origin": APP, **key})),
            (404, served.client.get("/nothing", headers={"origin": APP})),
            (400, served.client.post(CHAT, json={"what": 1}, headers={"origin": APP, **key})),
            (
                413,
                served.client.post(CHAT, json={"what": "x" * 1000}, headers={"origin": APP, **key}),
            ),
        ]:
            assert (
                response.status_code == status
                and response.headers["access-control-allow-origin"] == APP
            )
            assert "x-request-id" in response.headers["access-control-expose-headers"]
        other = served.client.get("/health", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        assert (
            served.client.options(
                CHAT, headers={**asked, "origin": "https://evil.example"}
            ).status_code
            == 400
        )
        complaint(tell(served, head(host="evil.example", origin=APP)), 421)


def test_pages_of_every_origin_may_call(lm: LM) -> None:
    with serving(lm, cors_origin=("*",)) as served:
        assert (
            served.client.get("/health", headers={"origin": APP}).headers[
                "access-control-allow-origin"
            ]
            == "*"
        )
        assert (
            served.client.get("/nothing", headers={"origin": APP}).headers[
                "access-control-allow-origin"
            ]
            == "*"
        )


def test_pages_of_other_origins_may_not_call_unless_told(served: Served) -> None:
    response = served.client.get("/health", headers={"origin": APP})
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert (
        served.client.options(
            CHAT, headers={"origin": APP, "access-control-request-method": "POST"}
        ).status_code
        == 405
    )
    complaint(
        tell(
            served,
            head("POST", CHAT, content_type="text/plain", content_length=str(len(QUESTION))),
            QUESTION,
        ),
        400,
    )
    complaint(tell(served, head("POST", CHAT, content_length=str(len(QUESTION))), QUESTION), 400)


@pytest.mark.parametrize(
    "path", ["/", "/health", "/v1/models", "/v1/models/pocket", "/metrics", "/openapi.json"]
)
def test_head_is_get_without_the_body(path: str, served: Served) -> None:
    full = served.client.get(path)
    status, headers, body = tell(served, head("HEAD", path, connection="close"))
    assert (status, headers["content-type"], body) == (200, full.headers["content-type"], b"")
    assert path == "/metrics" or headers["content-length"] == full.headers["content-length"]


def test_head_of_what_is_not_there(served: Served) -> None:
    assert tell(served, head("HEAD", "/nothing", connection="close"))[::2] == (404, b"")
    assert tell(served, head("HEAD", CHAT, connection="close"))[::2] == (405, b"")


def test_request_ids(served: Served) -> None:
    for given in ("abc-1", "a" * 128, "Root=1-67891233-abc:def/1.2_3"):
        assert (
            served.client.get("/health", headers={"x-request-id": given}).headers["x-request-id"]
            == given
        )
    for given in ("", "a b", "a" * 129, "<script>", "a\tb", "\u00e9"):
        own = served.client.get(
            "/health", headers={"x-request-id": given.encode("latin-1")}
        ).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", own)
    responses = [served.client.get(path) for path in ("/", "/health", "/nothing", CHAT)]
    responses += [
        served.chat(max_tokens=4),
        served.chat(max_tokens=4, stream=True),
        served.chat(temperature=-1),
    ]
    assert len({response.headers["x-request-id"] for response in responses}) == 7


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "creditdecoding.server")
    return caplog


def test_every_request_has_a_line_in_the_log(lm: LM, log: pytest.LogCaptureFixture) -> None:
    with serving(lm, api_key="sesame", max_body=1000) as served:
        key = {"authorization": "Bearer sesame", "x-request-id": "mine-1"}
        body = {"messages": [{"role": "user", "content": "Say xyzzy"}], "max_tokens": 8, "n": 2}
        tokens = 0
        for stream in (False, True):
            response = served.client.post(CHAT, json={**body, "stream": stream}, headers=key)
            assert response.status_code == 200
            tokens = tokens or response.json()["usage"]["completion_tokens"]
        served.client.get("/v1/models?api_key=sesame")
        served.client.get("/a%0ab\u00e9?x")
        tell(served, head(host="evil.example"))
        tell(
            served,
            head(
                "POST",
                "/health",
                content_type="application/json",
                content_length="10000",
                expect="100-continue",
            ),
        )
        tell(served, b"nonsense\r\n\r\n")
        wait(lambda: " - - 400 " in log.text)
    lines = [record.getMessage() for record in log.records]
    counts = rf"rows=2 tokens={tokens} passes=\d+"
    for pattern in (
        rf"mine-1 POST {CHAT} 200 \d+\.\d\d\ds {counts}",
        r"\w{32} GET /v1/models 401 \d+\.\d\d\ds",
        r"\w{32} GET /a%0ab%C3%A9 404 \d+\.\d\d\ds",
        r"\w{32} GET /health 421 \d+\.\d\d\ds",
        r"\w{32} POST /health 413 \d+\.\d\d\ds",
        r"\w{32} - - 400 \d+\.\d\d\ds",
    ):
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, lines)
    assert sum(line.startswith("mine-1 ") for line in lines) == 2
    assert not re.search("sesame|xyzzy|[\x00-\x1f\x7f-\uffff]", "".join(lines))


def test_clients_that_are_too_slow_are_in_the_log(lm: LM, log: pytest.LogCaptureFixture) -> None:
    with serving(lm, receive_timeout=SHORT) as served:
        insist(served, HALF, status=408)
        wait(lambda: f"POST {CHAT} 408 " in log.text)
        assert served.server is not None
        assert (
            b'http_responses_total{model_name="pocket",status="408"}'
            in served.client.get("/metrics").content
        )
    assert "Traceback" not in log.text


def test_clients_that_leave_are_in_the_log(lm: LM, log: pytest.LogCaptureFixture) -> None:
    with serving(with_model(lm, Slow(lm.model))) as served:
        body = json.dumps(
            {
                **json.loads(QUESTION),
                "stream": True,
                "max_tokens": 200,
                "ignore_eos": True,
                "decoder": "fixed",
            }
        ).encode()
        with closing(dial(served)) as connection:
            connection.sendall(
                head("POST", CHAT, content_type="application/json", content_length=str(len(body)))
                + body
            )
            assert connection.recv(100)
        wait(lambda: "cut-off" in log.text)
    assert "Traceback" not in log.text


def test_a_long_path_is_cut(served: Served, log: pytest.LogCaptureFixture) -> None:
    served.client.get("/" + "x" * 5000)
    wait(lambda: "xxx... 404" in log.text)
    assert "x" * 200 not in log.text


def test_our_own_fault_is_in_the_log_with_its_id(
    lm: LM, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(lm) as served:
        assert served.server is not None
        monkeypatch.setattr(served.server.async_engine, "stats", lambda: 1 / 0)
        response = served.client.get("/metrics", headers={"x-request-id": "find-me"})
        assert response.status_code == 500 and response.json()["error"]["type"] == "server_error"
        wait(lambda: "find-me GET /metrics 500" in log.text)
    assert log.text.count("Traceback (most recent call last)") == 1 and "find-me failed" in log.text


def test_the_log_can_be_switched_off() -> None:
    flags = run_credit(["serve", "--help"]).stdout
    assert "--no-access-log" in flags


# Requests that are none
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"a: b\r\n" * 20_000,
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n",
        head("POST", CHAT, content_type="application/json", content_length="-1"),
        head("POST", CHAT, content_type="application/json", content_length="1x"),
        head("POST", CHAT, content_type="application/json", transfer_encoding="gzip"),
        head("POST", CHAT, content_type="application/json", transfer_encoding="chunked")
        + b"zz\r\n",
        head("POST", CHAT, content_type="application/json", transfer_encoding="chunked")
        + b"1\r\n \r\n" * 2000,
    ],
    ids=lambda given: repr(given[:30]),
)
def test_what_is_not_http(
    request_bytes: bytes, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    complaint(tell(served, request_bytes), 400)
    assert "Traceback" not in caplog.text


def test_small_chunks_and_single_bytes_are_read(served: Served) -> None:
    chunks = [
        b"%x\r\n%s\r\n" % (len(part), part)
        for part in (QUESTION[i : i + 3] for i in range(0, len(QUESTION), 3))
    ]
    chunked = head(
        "POST",
        CHAT,
        content_type="application/json",
        transfer_encoding="chunked",
        connection="close",
    )
    assert tell(served, chunked + b"".join(chunks) + b"0\r\n\r\n")[0] == 200
    whole = head(
        "POST",
        CHAT,
        content_type="application/json",
        content_length=str(len(QUESTION) + 300),
        connection="close",
    )
    single = (bytes([byte]) for byte in b" " * 300 + QUESTION)
    assert tell(served, whole, *single)[0] == 200


@pytest.mark.parametrize("size", [100_001, 1_500_000, 10**15])
def test_too_large_bodies_are_told_before_they_have_come(size: int, served: Served) -> None:
    declared = head("POST", CHAT, content_type="application/json", content_length=str(size))
    assert (
        "too large"
        in complaint(tell(served, declared, b"x" * min(size, 1_500_000)), 413)["message"]
    )
    chunked = head("POST", CHAT, content_type="application/json", transfer_encoding="chunked")
    chunk = b"%x\r\n%s\r\n" % (100_001, b"x" * 100_001)
    assert "too large" in complaint(tell(served, chunked, chunk, b"0\r\n\r\n"), 413)["message"]
    waiting = head(
        "POST",
        CHAT,
        content_type="application/json",
        content_length=str(size),
        expect="100-continue",
    )
    assert "too large" in complaint(tell(served, waiting), 413)["message"], (
        "asked before anything is sent"
    )
