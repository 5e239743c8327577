"""The errors of this package. Each is one line: what is wrong, what was given, what is allowed and
what to do.

    CreditError
    |-- OptionError        an option or request that cannot be served
    |   |-- TooLongError     prompt and answer do not fit into the model
    |   `-- QueueFullError   too many requests wait; try again later
    |-- CheckpointError    a checkpoint that cannot be loaded
    |-- ModelError         NaN, infinite or wrongly shaped logits
    `-- MissingExtraError  an optional dependency that is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

MAX_SHOWN = 300
"""Characters of a value that an error shows."""


class CreditError(Exception):
    """Base of every error meant for the caller. `str()` is one line that ends with a hint.

    `param` is the request's field at fault, if known.
    """

    def __init__(
        self,
        what: str,
        *,
        hint: str,
        given: object = None,
        allowed: object = None,
        param: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.given = given
        self.allowed = allowed
        self.param = param

    def __str__(self) -> str:
        parts = [self.what]
        if self.given is not None:
            parts.append(f"got {short_repr(self.given)}")
        if self.allowed is not None:
            parts.append(f"allowed: {self.allowed}")
        return "; ".join(parts) + ". " + self.hint


class OptionError(CreditError):
    """An option or request that cannot be served as given."""


class TooLongError(OptionError):
    """Prompt and answer together do not fit into the model."""


class QueueFullError(OptionError):
    """Too many requests wait; the same request may be accepted later."""


class CheckpointError(CreditError):
    """A checkpoint folder or file that cannot be loaded."""


class ModelError(CreditError):
    """The model returned logits that no decoder can use.

    `rows` are the rows of the pass at fault; none if all are.
    """

    def __init__(
        self,
        what: str,
        *,
        hint: str,
        given: object = None,
        allowed: object = None,
        rows: tuple[int, ...] = (),
    ) -> None:
        super().__init__(what, hint=hint, given=given, allowed=allowed)
        self.rows = rows


class MissingExtraError(CreditError):
    """An optional dependency is missing; the hint names the extra that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}",
            hint=f"Install it with: pip install 'creditdecoding[{extra}]'",
        )


def short_repr(value: object, limit: int = MAX_SHOWN) -> str:
    """The `repr` of a value, cut after `limit` characters."""
    text = repr(value)
    if len(text) <= limit:
        return text
    return f"{text[:limit]}... ({len(text)} characters)"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> OptionError:
    """An `OptionError` for a name that is not among `known`; its hint is the nearest one."""
    names = sorted(known)
    near = difflib.get_close_matches(name[:MAX_SHOWN], names, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "Use one of the allowed names."
    return OptionError(f"unknown {kind}", given=name, allowed=", ".join(names) or "none", hint=hint)


@contextmanager
def blame_param(param: str) -> Iterator[None]:
    """Set the request's field of every `OptionError` from the body that has none."""
    try:
        yield
    except OptionError as error:
        error.param = error.param or param
        raise


@contextmanager
def prefix_errors(prefix: str) -> Iterator[None]:
    """Put `prefix` before the message of every `OptionError` from the body."""
    try:
        yield
    except OptionError as error:
        error.what = f"{prefix}: {error.what}"
        raise


@contextmanager
def os_errors(what: str, given: object, hint: str) -> Iterator[None]:
    """Raise an `OSError` of the body, as of a disk that is full, as an `OptionError`."""
    try:
        yield
    except OSError as error:
        reason = f"{what} ({error.strerror})"
        raise OptionError(reason, given=str(given), hint=hint) from error
