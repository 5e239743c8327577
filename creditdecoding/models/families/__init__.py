"""Model families: one file each, with the names in its config.json and of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from creditdecoding.config import ModelConfig
from creditdecoding.models.weights import Rename


@runtime_checkable
class ModelFamily(Protocol):
    """What the module of a family declares."""

    @property
    def ARCHITECTURES(self) -> tuple[str, ...]:  # noqa: N802
        """Class names (`architectures` of config.json)."""
        ...

    @property
    def MODEL_TYPES(self) -> tuple[str, ...]:  # noqa: N802
        """Implemented values of `model_type`."""
        ...

    @property
    def UNUSED(self) -> tuple[str, ...]:  # noqa: N802
        """Keys of released files that the network ignores."""
        ...

    @property
    def RENAME(self) -> Rename:  # noqa: N802
        """Where each parameter comes from."""
        ...

    def from_hf(self, raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
        """The architecture from config.json and generation_config.json."""
        ...
