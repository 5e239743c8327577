"""Names of the server, and web pages of other origins."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.server.hosts import AllowedHosts
from creditdecoding.server.options import HttpConfig
from tests.helpers.serving import (
    CHAT,
    Served,
    serving,
)
from tests.helpers.wire import (
    QUESTION,
    head,
    send,
)

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
    error = send(served, head(path=path, host="evil.example")).error(421)
    assert "'evil.example'" in error["message"]
    assert "--allowed-host" in error["message"]
    assert send(served, head(path=path, connection="close")).status in (200, 404)


@pytest.mark.parametrize("host", OURS + OTHERS + MALFORMED)
def test_names_of_a_server_on_loopback(host: str, served: Served) -> None:
    assert (host in AllowedHosts(HttpConfig())) == (host in OURS)
    status = send(served, head(host=host, connection="close")).status
    assert status == (200 if host in OURS else 421)


def test_no_name_at_all(served: Served) -> None:
    send(served, b"GET /health HTTP/1.1\r\n\r\n").error(400)
    assert send(served, b"GET /health HTTP/1.0\r\n\r\n").status == 200, "it has no such header"
    two = b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n"
    send(served, two).error(400)


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
        assert send(served, head(host="model.example:80", connection="close")).status == 200
        error = send(served, head(host="evil.example")).error(421)
        assert "model.example" in error["message"]


@pytest.mark.parametrize(
    ("options", "text"),
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
def test_options_that_mean_nothing(options: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=re.escape(text)):
        HttpConfig(**options)


APP = "https://app.example"


def test_pages_of_a_named_origin_may_call(lm: LM) -> None:
    origins = (APP, "http://localhost:3000")
    with serving(lm, cors_origin=origins, api_key="sesame", max_body=1000) as served:
        client = served.client
        preflight = {
            "origin": APP,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,x-stainless-os",
        }
        response = client.options(CHAT, headers=preflight)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == APP
        allowed = response.headers["access-control-allow-headers"]
        assert "authorization" in allowed
        assert "x-stainless-os" in allowed
        unknown = {"headers": {"origin": APP}}
        known = {"headers": {"origin": APP, "authorization": "Bearer sesame"}}
        for status, response in [
            (401, client.get("/v1/models", **unknown)),
            (200, client.get("/v1/models", **known)),
            (404, client.get("/nothing", **unknown)),
            (400, client.post(CHAT, json={"what": 1}, **known)),
            (413, client.post(CHAT, json={"what": "x" * 1000}, **known)),
        ]:
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == APP
            assert "x-request-id" in response.headers["access-control-expose-headers"]
        evil = {"origin": "https://evil.example"}
        assert "access-control-allow-origin" not in client.get("/health", headers=evil).headers
        assert client.options(CHAT, headers={**preflight, **evil}).status_code == 400
        send(served, head(host="evil.example", origin=APP)).error(421)


@pytest.mark.parametrize("path", ["/health", "/nothing"])
def test_pages_of_every_origin_may_call(path: str, lm: LM) -> None:
    with serving(lm, cors_origin=("*",)) as served:
        response = served.client.get(path, headers={"origin": APP})
        assert response.headers["access-control-allow-origin"] == "*"


def test_pages_of_other_origins_may_not_call(served: Served) -> None:
    response = served.client.get("/health", headers={"origin": APP})
    assert not [name for name in response.headers if name.startswith("access-control")]
    preflight = {"origin": APP, "access-control-request-method": "POST"}
    assert served.client.options(CHAT, headers=preflight).status_code == 405
    content = json.dumps(QUESTION).encode()
    length = str(len(content))
    plain = head("POST", CHAT, content_type="text/plain", content_length=length)
    send(served, plain, content).error(400)
    send(served, head("POST", CHAT, content_length=length), content).error(400)
