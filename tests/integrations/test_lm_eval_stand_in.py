"""What lm-eval asks of its model class, also where lm-eval is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from creditdecoding.config import EngineConfig
from creditdecoding.errors import OptionError
from tests.helpers.lm_eval_class import credit_lm_class
from tools.make_checkpoint import make


@pytest.fixture(scope="module")
def model_class() -> Iterator[Any]:
    """`CreditLM`."""
    with pytest.MonkeyPatch.context() as patch:
        yield credit_lm_class(patch)


def ask(text: str, temperature: float) -> SimpleNamespace:
    """What lm-eval calls an instance, as far as a model looks at it."""
    return SimpleNamespace(
        args=(text, {"until": [], "do_sample": True, "temperature": temperature})
    )


def test_repeated_requests_are_different_samples(model_class: Any, tmp_path: Path) -> None:
    """As `repeats` with do_sample asks; the first is what the request gets alone, and all come
    again with the same seed.
    """
    lm = model_class(pretrained=str(make("llada", tmp_path / "tiny")), gen_length=8)
    requests = [ask("hello", temperature) for temperature in (2.5, 2.0, 2.5, 2.5)]
    texts = lm.generate_until(requests)
    assert len({texts[0], texts[2], texts[3]}) == 3
    assert texts == lm.generate_until(requests)
    assert texts[:2] == [lm.generate_until([request])[0] for request in requests[:2]]


def test_lm_evals_default_device_is_left_out_where_it_is_not(
    model_class: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that the user names stays, and is refused where it is not there."""

    def resolve_device(engine: EngineConfig) -> Any:
        if engine.device.startswith("cuda"):
            raise OptionError("no such device", given=engine.device, hint="Use cpu.")
        return torch.device("cpu")

    integration: Any = sys.modules[model_class.__module__]
    monkeypatch.setattr(integration, "resolve_device", resolve_device)
    without = integration._without_absent_default_device
    assert without({"device": "cuda:0", "batch_size": 2}) == {"batch_size": 2}
    assert "cuda:0 is not on this machine; running on cpu" in caplog.text
    for named in ("cuda:1", "cpu"):
        assert without({"device": named}) == {"device": named}
