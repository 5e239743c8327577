"""Which releases of SGLang and vLLM our plug-ins load in."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from types import ModuleType

import pytest

from creditdecoding.errors import MissingExtraError, OptionError
from creditdecoding.integrations import versions
from creditdecoding.integrations.sglang import plugin as sglang
from creditdecoding.integrations.vllm import plugin as vllm

REFUSED = [
    *((sglang, version) for version in ("0.5.20", "0.5.10.post1", "0.5.21rc1", "0.6.0rc1", "0.6")),
    *((vllm, version) for version in ("0.32.0", "0.34.0", "0.34.0rc1.dev1", "1.0", "dev")),
]
ACCEPTED = [
    *((sglang, version) for version in (sglang.OLDEST, "0.5.23", "0.5.99.post1", "0.5.22rc1")),
    *((vllm, version) for version in (vllm.OLDEST, "0.33.1", "0.33.0+cu130", "0.33.1.dev5+g1")),
]


@pytest.mark.parametrize(("plugin", "version"), REFUSED)
def test_another_release_is_refused(
    plugin: ModuleType, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "version", lambda name: version)
    with pytest.raises(OptionError) as caught:
        plugin.register()
    assert caught.value.given == version
    assert caught.value.allowed == f">={plugin.OLDEST},<{plugin.BELOW}"


@pytest.mark.parametrize(("plugin", "version"), ACCEPTED)
def test_releases_of_the_range_are_accepted(
    plugin: ModuleType, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "version", lambda name: version)
    versions.check_installed("engine", "Engine", plugin.OLDEST, plugin.BELOW)


@pytest.mark.parametrize("plugin", [sglang, vllm])
def test_an_engine_that_is_not_installed_is_an_extra(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(versions, "version", missing)
    with pytest.raises(MissingExtraError):
        plugin.register()
