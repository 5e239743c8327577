"""vLLM's plug-in: masked block-diffusion models, decoded by the rules of this package.

vLLM loads plug-ins in every process, so nothing heavy happens here: models are named as text, and
vLLM imports them when, and only if, it serves one.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version

from packaging.version import InvalidVersion, Version

from creditdecoding.errors import MissingExtraError, OptionError

OLDEST, BELOW = "0.33", "0.34"


def check_version(installed: str) -> None:
    """Raise `OptionError` for a vLLM that this plug-in does not support."""
    try:
        release = Version(Version(installed).base_version)
        supported = Version(OLDEST) <= release < Version(BELOW)
    except InvalidVersion:
        supported = False
    if not supported:
        raise OptionError(
            "this vLLM cannot run the rules of creditdecoding",
            given=installed,
            allowed=f">={OLDEST},<{BELOW}",
            hint="Install such a vLLM, or another version of creditdecoding.",
        )


def register() -> None:
    """The entry point; vLLM may call it more than once.

    Raises `MissingExtraError` where vLLM is not installed, `OptionError` where its version is not
    supported; vLLM does not start then.
    """
    try:
        installed = version("vllm")
    except PackageNotFoundError as error:
        raise MissingExtraError("vllm", "vllm") from error
    check_version(installed)
    importlib.import_module("creditdecoding.integrations.vllm.launch").register_models()
