"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """The version, or "unknown" for files that are not installed."""
    try:
        return version("creditdecoding")
    except PackageNotFoundError:
        return "unknown"
