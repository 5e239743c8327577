"""Where the API key comes from: an option, a file, the environment."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace

from creditdecoding.errors import OptionError
from creditdecoding.server.options import HttpConfig, check_key

VARIABLE = "CREDIT_API_KEY"
MAX_FILE = 4096  # bytes


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
        source = f"the content of {http.api_key_file}"
    elif VARIABLE in environment:
        key = environment[VARIABLE]
        source = f"the environment variable {VARIABLE}"
    else:
        return http
    check_key(key, source)
    return replace(http, api_key=key, api_key_file=None)


def _read(path: str, warn: Callable[[str], None]) -> str:
    """The text of a key file (or a pipe), without surrounding whitespace."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        hint = "Check the path and its permissions."
        what = f"the key file cannot be read ({error})"
        raise OptionError(what, given=path, hint=hint) from error
    if len(content) > MAX_FILE:
        raise OptionError(
            "the key file is too long",
            given=path,
            allowed=f"{MAX_FILE} bytes",
            hint="It must hold the key alone.",
        )
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        warn(f"all users of this machine can read the key in {path}. Run: chmod 600 {path}")
    return content.decode("utf-8", "replace").strip()
