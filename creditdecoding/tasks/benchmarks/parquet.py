"""Rows of parquet files, the form in which the hub keeps most data sets. The only file that imports
pyarrow.
"""

from __future__ import annotations

import io
from typing import Any

from creditdecoding.errors import MissingExtraError

try:
    import pyarrow.parquet as _parquet
except ImportError:
    _parquet = None


def rows(content: bytes) -> list[dict[str, Any]]:
    """Every row of a file. Raises `MissingExtraError`, or `ValueError` if it is no parquet file."""
    if _parquet is None:
        raise MissingExtraError("pyarrow", "eval")
    table: list[dict[str, Any]] = _parquet.read_table(io.BytesIO(content)).to_pylist()
    return table
