"""The errors a caller can meet. One line each: what is wrong, what was given, what is allowed, what
to do.

    CreditError
    |-- OptionError       an option or a request that cannot be served: unknown name, value out of
    range, prompt too long
    |-- CheckpointError   a checkpoint that cannot be loaded: files, config fields, weights,
    tokenizer
    |   `-- QueueFullError    more requests wait than the engine was told to keep; the same one fits
    later
    |-- ModelError        the model answered something no decoder can use: NaN or infinite logits
    `-- MissingExtraError an optional dependency that is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

MAX_SHOWN = 300  # characters of a caller's value that an error repeats


class CreditError(Exception):
    """Base of every error meant for the caller; `str()` is one line that ends with a hint.

    `param` is the field of a request that is to blame, where somebody knows it.
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
        self.what, self.hint, self.given, self.allowed = what, hint, given, allowed
        self.param = param
        parts = [what]
        if given is not None:
            parts.append(f"got {short_repr(given)}")
        if allowed is not None:
            parts.append(f"allowed: {allowed}")
        super().__init__("; ".join(parts) + ". " + hint)


class OptionError(CreditError):
    """An option or request that cannot be served as given."""


class TooLongError(OptionError):
    """Prompt and answer do not fit into the model together."""


class QueueFullError(OptionError):
    """Too many requests wait; the caller may try again later."""


class CheckpointError(CreditError):
    """A checkpoint folder or file that cannot be loaded as it is."""


class ModelError(CreditError):
    """The model returned values that no decoder can use; `rows` of the pass are to blame, none
    where all are.
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
    """An optional dependency is missing; the hint names the extra that brings it."""

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


@contextmanager
def blame_param(param: str) -> Iterator[None]:
    """Name the field of a request in every `OptionError` from within that names none."""
    try:
        yield
    except OptionError as error:
        error.param = error.param or param
        raise


def unknown_name(kind: str, name: str, known: Iterable[str]) -> OptionError:
    """An `OptionError` for a name that is not among `known`, with the nearest one as the hint."""
    names = sorted(known)
    near = difflib.get_close_matches(name[:MAX_SHOWN], names, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "Use one of the allowed names."
    return OptionError(f"unknown {kind}", given=name, allowed=", ".join(names) or "none", hint=hint)


@contextmanager
def prefix_errors(what: str) -> Iterator[None]:
    """Put a name before what an `OptionError` of the body says."""
    try:
        yield
    except OptionError as error:
        raise type(error)(
            f"{what}: {error.what}",
            given=error.given,
            allowed=error.allowed,
            hint=error.hint,
            param=error.param,
        ) from error
