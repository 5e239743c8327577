"""Diffusion language models decoded in few forward passes.

The public API. Names are imported on first use, so importing the package is cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from creditdecoding.config import EngineConfig, GenerationConfig, ServeConfig
    from creditdecoding.decoders.base import (
        Block,
        Decision,
        Decoder,
        Prediction,
        Sampling,
        State,
        at_least_one,
        from_logits,
    )
    from creditdecoding.decoding.engine import Engine
    from creditdecoding.decoding.engine_stats import EngineStats
    from creditdecoding.errors import (
        CheckpointError,
        CreditError,
        MissingExtraError,
        ModelError,
        OptionError,
        QueueFullError,
    )
    from creditdecoding.integrations.external_model import wrap
    from creditdecoding.lm import LM, Completion, load
    from creditdecoding.trace import FailEvent, FinishEvent, StepEvent, Trace

__version__: str

_HOME = {
    "config": ("EngineConfig", "GenerationConfig", "ServeConfig"),
    "decoders.base": (
        "Block",
        "Decision",
        "Decoder",
        "Prediction",
        "Sampling",
        "State",
        "at_least_one",
        "from_logits",
    ),
    "decoding.engine": ("Engine",),
    "decoding.engine_stats": ("EngineStats",),
    "errors": (
        "CheckpointError",
        "CreditError",
        "MissingExtraError",
        "ModelError",
        "OptionError",
        "QueueFullError",
    ),
    "integrations.external_model": ("wrap",),
    "lm": ("LM", "Completion", "load"),
    "trace": ("FailEvent", "FinishEvent", "StepEvent", "Trace"),
}

__all__ = [
    "LM",
    "Block",
    "CheckpointError",
    "Completion",
    "CreditError",
    "Decision",
    "Decoder",
    "Engine",
    "EngineConfig",
    "EngineStats",
    "FailEvent",
    "FinishEvent",
    "GenerationConfig",
    "MissingExtraError",
    "ModelError",
    "OptionError",
    "Prediction",
    "QueueFullError",
    "Sampling",
    "ServeConfig",
    "State",
    "StepEvent",
    "Trace",
    "at_least_one",
    "from_logits",
    "load",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("creditdecoding.version").installed_version()
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"creditdecoding.{module}"), name)
    raise AttributeError(f"module 'creditdecoding' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
