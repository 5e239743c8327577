"""lm-eval's model class, on the real lm-eval or, without it, on stand-ins of what it imports."""

from __future__ import annotations

import abc
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest


class TemplateLM(abc.ABC):
    """The abstract methods of lm-eval 0.4.13's `TemplateLM` and its `LM`."""

    def __init__(self) -> None:
        self.cache_hook = CacheHook()

    @property
    @abc.abstractmethod
    def eot_token_id(self) -> int: ...

    @abc.abstractmethod
    def tok_encode(self, string: str, **options: Any) -> list[int]: ...

    @abc.abstractmethod
    def _loglikelihood_tokens(self, requests: Any, **options: Any) -> list[tuple[float, bool]]: ...

    @abc.abstractmethod
    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]: ...

    @abc.abstractmethod
    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]: ...


class CacheHook:
    """What an answer is reported to."""

    def __init__(self) -> None:
        self.reported: list[tuple[str, Any, Any]] = []

    def add_partial(self, attribute: str, arguments: Any, result: Any) -> None:
        self.reported.append((attribute, arguments, result))


@dataclass
class EvaluatorConfig:
    """The default that the class asks for."""

    device: str | None = "cuda:0"


def credit_lm_class(patch: pytest.MonkeyPatch) -> Any:
    """`CreditLM`."""
    name = "creditdecoding.integrations.lm_eval"
    if importlib.util.find_spec("lm_eval") is not None:
        return importlib.import_module(name).CreditLM
    contents: dict[str, dict[str, Any]] = {
        "lm_eval": {},
        "lm_eval.__main__": {"cli_evaluate": lambda: None},
        "lm_eval.api": {},
        "lm_eval.api.model": {"TemplateLM": TemplateLM},
        "lm_eval.api.registry": {"register_model": lambda _: lambda cls: cls},
        "lm_eval.config": {},
        "lm_eval.config.evaluate_config": {"EvaluatorConfig": EvaluatorConfig},
    }
    for module_name, attributes in contents.items():
        module = ModuleType(module_name)
        vars(module).update(attributes)
        patch.setitem(sys.modules, module_name, module)
    patch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    patch.setitem(sys.modules, name, module)
    return module.CreditLM
