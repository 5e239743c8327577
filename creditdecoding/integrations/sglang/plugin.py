"""SGLang's plug-in: makes every decoder a `--dllm-algorithm`.

SGLang loads plug-ins in every process and for every model, so nothing heavy happens here: the
algorithms are made when, and only if, SGLang imports its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from creditdecoding.decoders import names
from creditdecoding.integrations.versions import check_installed
from creditdecoding.plugins import is_python_file

OLDEST = "0.5.21"
BELOW = "0.6"
ALGORITHMS = "sglang.srt.dllm.algorithm"
PUBLISHED = {"CreditDecoding": "credit", "EntropyBounded": "entropy"}
"""Algorithms with the name of their paper; every decoder `a_b` is also called `AB`."""

DECODER_FILE = "DecoderFile"
"""The algorithm whose configuration names a Python file: `name: mine.py`."""

logger = logging.getLogger(__name__)


def algorithm_decoders() -> dict[str, str]:
    """The decoder of each name that `--dllm-algorithm` takes."""
    derived = {name.replace("_", " ").title().replace(" ", ""): name for name in names()}
    return derived | PUBLISHED


def algorithm_name(decoder: str) -> str:
    """The name that `--dllm-algorithm` takes for a decoder, the published one if there is one."""
    if is_python_file(decoder):
        return DECODER_FILE
    names_of_decoder = [name for name, other in algorithm_decoders().items() if other == decoder]
    return names_of_decoder[-1]


def register() -> None:
    """The entry point.

    Raises `MissingExtraError` where SGLang is not installed, `OptionError` where its version is not
    supported.
    """
    check_installed("sglang", "SGLang", OLDEST, BELOW)
    module = sys.modules.get(ALGORITHMS)
    if module is None:
        sys.meta_path.insert(0, _ImportHook())
    else:
        add_algorithms(module)


def add_algorithms(module: ModuleType) -> None:
    """Add our algorithms to SGLang's, which keep their names.

    Errors are logged, since SGLang must still run other models.
    """
    try:
        own = importlib.import_module("creditdecoding.integrations.sglang.algorithm")
        classes = own.algorithm_classes()
    except Exception:
        logger.exception("creditdecoding could not add its algorithms to SGLang")
        return
    logger.info("creditdecoding serves this SGLang's hooks: %s", own.HOOKS)
    for name, algorithm in classes.items():
        if module.algo_name_to_cls.setdefault(name, algorithm) is not algorithm:
            logger.warning(
                "SGLang already has an algorithm %s; creditdecoding's is not added", name
            )


class _ImportHook(MetaPathFinder, Loader):
    """Adds our algorithms after SGLang's module of algorithms is loaded; works once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, with this loader."""
        if fullname != ALGORITHMS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        self.own = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module with its own loader."""
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then add our algorithms."""
        self.own.exec_module(module)
        add_algorithms(module)
