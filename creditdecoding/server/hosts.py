"""The Host header is checked, so that web pages cannot reach a server on the user's machine.

A page of evil.example can let its own name resolve to 127.0.0.1 (DNS rebinding); to the browser
this server is then part of that page's site. But the Host header still says evil.example. Names
can be rebound, addresses cannot.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING

from creditdecoding.server.error_responses import closing_error
from creditdecoding.server.options import HttpConfig

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]*)?")


class HostCheck:
    """ASGI middleware that passes on only requests to an allowed name."""

    def __init__(self, app: ASGIApp, http: HttpConfig) -> None:
        self._app = app
        self._allowed = AllowedHosts(http)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))  # uvicorn gives names in lower case
        host = headers.get(b"host", b"localhost").decode("latin-1")  # HTTP/1.0 may have none
        if host in self._allowed:
            await self._app(scope, receive, send)
            return
        message = (
            f"this server does not answer to the name {host[:100]!a}; allowed: {self._allowed}. "
            "Use one of these, or start the server with --allowed-host."
        )
        await closing_error(421, message, "unknown_host")(scope, receive, send)


class AllowedHosts:
    """The names that a server answers to.

    Loopback names and addresses, the address to listen at, and `allowed_host`. A server that other
    machines can reach also answers to the machine's name and to every address, because it may not
    know its own from outside.
    """

    def __init__(self, http: HttpConfig) -> None:
        host = _normalize(http.host)
        self._is_public = not is_loopback(host)
        self._names = {host, *map(_normalize, http.allowed_host)}
        if self._is_public:
            machine = _normalize(socket.gethostname())
            self._names |= {machine, f"{machine}.local"}
        self._suffixes = tuple(name[1:] for name in self._names if name.startswith("*."))

    def __contains__(self, header: str) -> bool:
        if "*" in self._names:
            return True
        match = _HOST.fullmatch(header.strip())
        if match is None or not match[1]:
            return False
        name = _normalize(match[1])
        if is_loopback(name) or name in self._names or name.endswith(self._suffixes):
            return True
        return self._is_public and _address(name) is not None

    def __str__(self) -> str:
        addresses = ["any address"] if self._is_public else []
        return ", ".join(["localhost", *addresses, *sorted(self._names - {"localhost"})])


def _normalize(name: str) -> str:
    """A name or an address in lower case, without brackets and final dot."""
    return name.strip().lower().removeprefix("[").removesuffix("]").removesuffix(".")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_loopback(name: str) -> bool:
    """Whether a name or an address can only mean this machine."""
    address = _address(name)
    if address is not None:
        return address.is_loopback
    return name == "localhost" or name.endswith(".localhost")
