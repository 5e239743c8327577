"""What an operator sets for all requests that do not say otherwise: the options of a request, none
of them set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.options import check_fields, type_names

OWN = ("seed", "stop")
"""Options that belong to a single request."""


def _unset(field: dataclasses.Field[Any]) -> tuple[str, str, Any]:
    """The field of a request as one that may be left open: (name, type, field)."""
    kind = " | ".join(dict.fromkeys([*type_names(field), "None"]))
    return field.name, kind, dataclasses.field(default=None, metadata=field.metadata)


Defaults: Any = dataclasses.make_dataclass(
    "Defaults",
    [_unset(field) for field in dataclasses.fields(GenerationConfig) if field.name not in OWN],
    frozen=True,
    namespace={"__post_init__": check_fields},
)
"""Every option of `GenerationConfig` that a server may have a default for; None leaves it to the
checkpoint.
"""


def set_values(defaults: Any) -> Mapping[str, Any]:
    """The options that were set."""
    values = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
    return {name: value for name, value in values.items() if value is not None}
