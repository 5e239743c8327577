"""The options of the server's HTTP side, and the defaults for requests."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.options import check_fields, option, type_names


def decoder_files_option() -> Any:
    """The option of a server, and of a batch, that names the folder of clients' decoders."""
    return option(
        None,
        "Folder of Python files whose decoders requests may name. Its files run in this process; "
        "by default none may be named.",
    )


@dataclass(frozen=True)
class HttpConfig:
    """Options of the server's HTTP side."""

    host: str = option(
        "127.0.0.1", "Address to listen at; 0.0.0.0 is reachable from other machines."
    )
    port: int = option(8000, "Port to listen at; 0 takes a free one.", ge=0, le=65_535)
    api_key: str | None = option(
        None,
        "Key that requests under /v1 must carry as a bearer token. Every user of this machine can "
        "read it in the list of processes: prefer the environment variable CREDIT_API_KEY, or "
        "--api-key-file.",
    )
    api_key_file: str | None = option(None, "File that holds the key.")
    allowed_host: tuple[str, ...] = option(
        (),
        "Additional name for this server in the Host header of requests; loopback names and --host "
        "are always allowed. *.example.com allows all names below it, * any name. Repeatable.",
    )
    cors_origin: tuple[str, ...] = option(
        (),
        "Origin of web pages that may call this server from a browser, such as "
        "https://app.example.com; * allows all. Repeatable.",
    )
    name: str | None = option(None, "Name of the model for clients; by default what --model says.")
    max_body: int = option(2**20, "Maximum size of a request's body in bytes.", ge=1, rare=True)
    max_connections: int = option(
        4096,
        "Maximum number of open connections; more are refused with status 503.",
        ge=1,
        rare=True,
    )
    receive_timeout: float = option(
        30.0,
        "Seconds within which a request must arrive, headers and body; then 408.",
        gt=0.0,
        rare=True,
    )
    send_timeout: float = option(
        60.0,
        "Seconds within which a client must read what it is sent; then its connection is closed.",
        gt=0.0,
        rare=True,
    )
    keep_alive: float = option(
        5.0,
        "Seconds that a connection stays open after an answer, for the next request.",
        ge=0.0,
        rare=True,
    )
    decoder_files: str | None = decoder_files_option()
    access_log: bool = option(True, "Write a line for every request to standard error.")
    grace: float = option(
        30.0, "Seconds that unfinished requests have after a signal to stop.", ge=0.0, rare=True
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.host.strip():
            hint = "Give an address, such as 127.0.0.1, or 0.0.0.0 for all."
            raise OptionError("host is empty", hint=hint)
        if self.api_key is not None:
            check_key(self.api_key, "api_key")
        if self.api_key is not None and self.api_key_file is not None:
            raise OptionError("two keys", hint="Give --api-key or --api-key-file, not both.")
        check_folder(self.decoder_files)
        for name in self.allowed_host:
            _check_host(name)
        for origin in self.cors_origin:
            _check_origin(origin)


def check_folder(folder: str | None) -> None:
    """Raise `OptionError` if there is no such folder of decoders."""
    if folder is not None and not Path(folder).is_dir():
        raise OptionError(
            "decoder_files is not a folder", given=folder, hint="Give a folder that exists."
        )


def check_key(key: str, source: str) -> None:
    """Raise `OptionError`, which does not repeat the key, for one that no header can carry."""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise OptionError(
            f"{source} is not a key",
            allowed="printable ASCII without spaces, at least one character",
            hint="Choose another key.",
        )


def _check_host(name: str) -> None:
    if name == "*" or re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", name):
        return
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError as error:
        raise OptionError(
            "allowed_host is not a name",
            given=name,
            allowed="a name or an address, without scheme and port; *.NAME; *",
            hint="Write it as clients write it between http:// and the port.",
        ) from error


def _check_origin(origin: str) -> None:
    if origin not in ("*", "null") and not re.fullmatch(r"[A-Za-z][\w+.-]*://[^/\s?#@*]+", origin):
        raise OptionError(
            "cors_origin is not an origin",
            given=origin,
            allowed="SCHEME://HOST or SCHEME://HOST:PORT, without a path; *",
            hint="Write it as browsers do: https://app.example.com.",
        )


PER_REQUEST = ("seed", "stop")
"""Options of `GenerationConfig` without a default of the operator."""


def _optional(field: dataclasses.Field[Any]) -> tuple[str, str, Any]:
    """The field as (name, type, field), with None as its default."""
    kind = " | ".join(dict.fromkeys([*type_names(field), "None"]))
    return field.name, kind, dataclasses.field(default=None, metadata=field.metadata)


Defaults: Any = dataclasses.make_dataclass(
    "Defaults",
    [
        _optional(field)
        for field in dataclasses.fields(GenerationConfig)
        if field.name not in PER_REQUEST
    ],
    frozen=True,
    namespace={"__post_init__": check_fields},
)
"""The options of `GenerationConfig` for which an operator may set defaults; None: not set."""


def set_values(defaults: Any) -> Mapping[str, Any]:
    """The options that were set."""
    values = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
    return {name: value for name, value in values.items() if value is not None}
