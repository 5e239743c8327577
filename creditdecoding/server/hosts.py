"""The names that requests may call the server by: the Host header is checked, so that no web page
reaches a server that is not its own.

A page of evil.example can let its own name point to 127.0.0.1 (DNS rebinding): to the browser this
server is then a part of that page's
site. The header gives it away, because it still says evil.example. Addresses cannot be rebound,
names can.
"""

from __future__ import annotations

import ipaddress
import re
import socket

from creditdecoding.server.asgi import ASGIApp, Receive, Scope, Send, send_error
from creditdecoding.server.options import HttpConfig

_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]*)?")


class HostCheck:
    """An ASGI application around another one, which sees only requests to a name that is allowed."""

    def __init__(self, app: ASGIApp, http: HttpConfig) -> None:
        self._app = app
        self._allowed = AllowedHosts(http)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = next((value for name, value in scope["headers"] if name.lower() == b"host"), None)
        if (
            given is None or given.decode("latin-1") in self._allowed
        ):  # HTTP/1.0 has no such header; browsers send it
            return await self._app(scope, receive, send)
        shown = given[:100].decode("latin-1")
        await send_error(
            send,
            421,
            f"this server does not answer to the name {shown!a}; allowed: {self._allowed}. "
            "Use one of these, or start the server with --allowed-host.",
            "unknown_host",
        )


class AllowedHosts:
    """The names that a server answers to, as its options say.

    Loopback names and addresses always; the address to listen at; `allowed_host`. A server that
    others can reach also answers to every
    address, as it may not know its own from outside, and to the machine's name.
    """

    def __init__(self, http: HttpConfig) -> None:
        own = _bare(http.host)
        self._reachable = not is_loopback(own)
        self._names = {own, *(_bare(name) for name in http.allowed_host)}
        if self._reachable:
            machine = _bare(socket.gethostname())
            self._names |= {machine, f"{machine}.local"}
        self._endings = tuple(name[1:] for name in self._names if name.startswith("*."))

    def __contains__(self, header: str) -> bool:
        match = _HOST.fullmatch(header.strip())
        if "*" in self._names:
            return True
        if match is None or not match[1]:
            return False
        name = _bare(match[1])
        if is_loopback(name) or name in self._names or name.endswith(self._endings):
            return True
        return self._reachable and _address(name) is not None

    def __str__(self) -> str:
        others = ["any address"] if self._reachable else []
        return ", ".join(["localhost", *others, *sorted(self._names - {"localhost"})])


def _bare(name: str) -> str:
    """A name or an address as it is compared: lower case, no brackets, no last dot."""
    return name.strip().lower().removeprefix("[").removesuffix("]").removesuffix(".")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_loopback(name: str) -> bool:
    """Whether only this machine can be meant by a name or an address."""
    address = _address(name)
    if address is not None:
        return address.is_loopback
    return name == "localhost" or name.endswith(".localhost")
