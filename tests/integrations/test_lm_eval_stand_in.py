"""What lm-eval asks of its model class where lm-eval is not installed: a stand-in has the four names
that the integration imports. Where it is, test_lm_eval.py has the whole.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from creditdecoding.config import EngineConfig
from creditdecoding.errors import OptionError
from tools.make_checkpoint import make

INTEGRATION = "creditdecoding.integrations.lm_eval"


class StandInLM:
    """lm-eval's base class of models, as far as ours uses it."""

    def __init__(self) -> None:
        self.cache_hook = SimpleNamespace(add_partial=lambda *_: None)


@dataclass
class StandInConfig:
    """lm-eval's options of the command line with the one that ours looks at."""

    device: str | None = "cuda:0"


NAMES = {
    "lm_eval.__main__": {"cli_evaluate": lambda: None},
    "lm_eval.api.model": {"LM": StandInLM},
    "lm_eval.api.registry": {"register_model": lambda _: lambda model: model},
    "lm_eval.config.evaluate_config": {"EvaluatorConfig": StandInConfig},
}


@pytest.fixture(scope="module")
def integration() -> Iterator[Any]:
    """The integration, imported beside the stand-in."""
    with pytest.MonkeyPatch.context() as patch:
        for package in ("lm_eval", "lm_eval.api", "lm_eval.config", *NAMES):
            module = ModuleType(package)
            vars(module).update(NAMES.get(package, {}))
            patch.setitem(sys.modules, package, module)
        patch.delitem(sys.modules, INTEGRATION, raising=False)
        yield importlib.import_module(INTEGRATION)
        del sys.modules[INTEGRATION]


def ask(text: str, temperature: float) -> SimpleNamespace:
    """What lm-eval calls an instance, as far as a model looks at it."""
    return SimpleNamespace(
        args=(text, {"until": [], "do_sample": True, "temperature": temperature})
    )


def test_repeated_requests_are_different_samples(integration: Any, tmp_path: Path) -> None:
    """As `repeats` with do_sample asks; the first is what the request gets alone, and all come
    again with the same seed.
    """
    lm = integration.CreditLM(pretrained=str(make("llada", tmp_path / "tiny")), gen_length=8)
    requests = [ask("hello", temperature) for temperature in (2.5, 2.0, 2.5, 2.5)]
    texts = lm.generate_until(requests)
    assert len({texts[0], texts[2], texts[3]}) == 3
    assert texts == lm.generate_until(requests)
    assert texts[:2] == [lm.generate_until([request])[0] for request in requests[:2]]


def test_lm_evals_default_device_is_left_out_where_it_is_not(
    integration: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that the user names stays, and is refused where it is not there."""

    def resolve_device(engine: EngineConfig) -> Any:
        if engine.device.startswith("cuda"):
            raise OptionError("no such device", given=engine.device, hint="Use cpu.")
        return torch.device("cpu"), torch.float32

    monkeypatch.setattr(integration, "resolve_device", resolve_device)
    without = integration._without_absent_default_device
    assert without({"device": "cuda:0", "batch_size": 2}) == {"batch_size": 2}
    assert "cuda:0 is not on this machine; running on cpu" in caplog.text
    for named in ("cuda:1", "cpu"):
        assert without({"device": named}) == {"device": named}
