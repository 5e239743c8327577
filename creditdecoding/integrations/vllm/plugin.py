"""vLLM's plug-in: masked block-diffusion models, decoded by the rules of this package.

vLLM loads plug-ins in every process, so nothing heavy happens here: models are named as text, and
vLLM imports them when, and only if, it serves one.
"""

from __future__ import annotations

import importlib

from creditdecoding.integrations.versions import check_installed

OLDEST, BELOW = "0.33", "0.34"


def register() -> None:
    """The entry point; vLLM may call it more than once.

    Raises `MissingExtraError` where vLLM is not installed, `OptionError` where its version is not
    supported; vLLM does not start then.
    """
    check_installed("vllm", "vLLM", OLDEST, BELOW)
    importlib.import_module("creditdecoding.integrations.vllm.launch").register_models()
