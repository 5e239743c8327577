"""Which releases of an engine a plug-in supports."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion

from creditdecoding.errors import MissingExtraError, OptionError


def check_installed(package: str, title: str, oldest: str, below: str) -> None:
    """Raise `OptionError` if the installed release of `package` is not from `oldest` on and before
    `below`. Pre-releases of these two are outside. `title` is the package's name in the error.

    Raises `MissingExtraError` where it is not installed.
    """
    supported = f">={oldest},<{below}"
    try:
        installed = version(package)
    except PackageNotFoundError as error:
        raise MissingExtraError(package, package) from error
    try:
        fits = SpecifierSet(supported).contains(installed, prereleases=True)
    except InvalidVersion:
        fits = False
    if not fits:
        raise OptionError(
            f"creditdecoding cannot run in this {title}",
            given=installed,
            allowed=supported,
            hint=f"Install such a {title}, or another version of creditdecoding.",
        )
