"""What SGLang's plug-in loader calls: checks the version, then sees to it that every decoder is a
`--dllm-algorithm`.

SGLang loads plug-ins in every process and for every model, so nothing heavy happens here: the
algorithms (sglang.py) are made when, and
only if, SGLang imports its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from packaging.version import InvalidVersion, Version

from creditdecoding.decoders import names
from creditdecoding.errors import MissingExtraError, OptionError

OLDEST, BELOW = "0.5.21", "0.6"
ALGORITHMS = "sglang.srt.dllm.algorithm"
PUBLISHED = {"CreditDecoding": "credit", "EntropyBounded": "entropy"}
"""Algorithms that also go by the name of their paper; every decoder `a_b` goes by `AB`."""

logger = logging.getLogger(__name__)


def algorithm_decoders() -> dict[str, str]:
    """Name of each algorithm, as `--dllm-algorithm` takes it, and the decoder it runs."""
    return {
        "".join(part.capitalize() for part in name.split("_")): name for name in names()
    } | PUBLISHED


def algorithm_name(decoder: str) -> str:
    """The name that `--dllm-algorithm` takes for a decoder, the published one where there is one."""
    return next(
        algorithm for algorithm, name in reversed(algorithm_decoders().items()) if name == decoder
    )


def check_version(found: str) -> None:
    """Raises `OptionError` for an SGLang that this plug-in was not made for."""
    try:
        fits = Version(OLDEST) <= Version(found) < Version(BELOW)
    except InvalidVersion:
        fits = False
    if not fits:
        raise OptionError(
            "this SGLang cannot run the algorithms of creditdecoding",
            given=found,
            allowed=f">={OLDEST},<{BELOW}",
            hint="Install such an SGLang, or another version of creditdecoding.",
        )


def register() -> None:
    """The entry point. Raises `OptionError` where SGLang's version does not fit,
    `MissingExtraError` where there is none.
    """
    try:
        found = version("sglang")
    except PackageNotFoundError as error:
        raise MissingExtraError("sglang", "sglang") from error
    check_version(found)
    module = sys.modules.get(ALGORITHMS)
    if module is None:
        sys.meta_path.insert(0, _Following())
    else:
        add_to(module)


def add_to(module: ModuleType) -> None:
    """Add our algorithms to SGLang's, whose own keep their names. What goes wrong is logged: SGLang
    must run other models all the same.
    """
    try:
        made = importlib.import_module("creditdecoding.integrations.sglang.algorithm").made()
    except Exception:
        logger.exception("creditdecoding could not add its algorithms to SGLang")
        return
    for name, algorithm in made.items():
        if module.algo_name_to_cls.setdefault(name, algorithm) is not algorithm:
            logger.warning(
                "SGLang has an algorithm %s of its own; creditdecoding's is not added", name
            )


class _Following(MetaPathFinder, Loader):
    """Lets SGLang's module of algorithms load as it is, then adds ours; takes part in one import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, loaded through here."""
        if fullname != ALGORITHMS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        self.own, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader does it."""
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then add to it."""
        self.own.exec_module(module)
        add_to(module)
