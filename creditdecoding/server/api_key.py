"""Where the API key comes from: an option, a file, the environment."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace

from creditdecoding.errors import OptionError
from creditdecoding.server.options import HttpConfig, check_key

VARIABLE = "CREDIT_API_KEY"
LONGEST = 4096  # bytes


def with_key(
    http: HttpConfig, warn: Callable[[str], None], environment: Mapping[str, str] = os.environ
) -> HttpConfig:
    """The options with the key filled in: --api-key, else --api-key-file, else the environment.
    Raises `OptionError`.
    """
    if http.api_key is not None:
        return http
    if http.api_key_file is not None:
        key = _read(http.api_key_file, warn)
        check_key(key, f"what {http.api_key_file} holds")
        return replace(http, api_key=key, api_key_file=None)
    if VARIABLE in environment:
        key = environment[VARIABLE]
        check_key(key, f"the environment variable {VARIABLE}")
        return replace(http, api_key=key)
    return http


def _read(path: str, warn: Callable[[str], None]) -> str:
    """The text of a key file (or a pipe), without spaces and line ends around it."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(LONGEST + 1)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"the key file cannot be read ({error})",
            given=path,
            hint="Check the path and its permissions.",
        ) from error
    if len(content) > LONGEST:
        raise OptionError(
            "the key file is too long",
            given=path,
            allowed=f"{LONGEST} bytes",
            hint="It must hold the key alone.",
        )
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        warn(
            f"every user of this machine can read the key in {path}. Change it with: chmod 600 {path}"
        )
    return content.decode("utf-8", "replace").strip()
