"""Checks of arguments and outputs before a long run starts."""

from __future__ import annotations

import errno
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from creditdecoding.cli.flags import typed_options
from creditdecoding.config import GenerationConfig
from creditdecoding.errors import MissingExtraError, OptionError, unknown_name

if TYPE_CHECKING:
    from creditdecoding.tasks.base import Split


def check_writable(*paths: Path | None) -> None:
    """Check that files can be written and are different ones; None is not checked.

    Nothing is changed on disk. Raises `OptionError`.
    """
    seen: set[str] = set()
    for path in filter(None, paths):
        real_path = os.path.realpath(path)
        if real_path in seen:
            raise OptionError(
                "two outputs are the same file",
                given=str(path),
                hint="Give each a file of its own.",
            )
        seen.add(real_path)
        try:
            _check_file(path, Path(real_path))
        except OSError as error:
            raise _refusal("this file cannot be written", error, path) from error


def _check_file(path: Path, real_path: Path) -> None:
    """Raises `OptionError` or `OSError` if `path` cannot become a file."""
    if not real_path.parent.is_dir():
        raise OptionError(
            "the folder of this file does not exist",
            given=str(path),
            hint="Make it first: a run can take long.",
        )
    if real_path.is_dir():
        raise OptionError("this is a folder", given=str(path), hint="Give a file in it.")
    if real_path.exists():
        if not real_path.is_file():
            return  # a device or a pipe: only writing to it shows what it takes
        with open(real_path, "ab"):
            pass
    _try_folder(real_path.parent)


def _try_folder(folder: Path) -> None:
    """Write some bytes to a file without a name in this folder. Raises `OSError`."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(4096))


def _refusal(problem: str, error: OSError, path: Path) -> OptionError:
    hint = "Make room." if error.errno == errno.ENOSPC else "Choose another place."
    return OptionError(f"{problem} ({error.strerror})", given=str(path), hint=hint)


def check_folder(folder: Path, *names: str) -> None:
    """Check that a folder can be made, or written to, with these files in it.

    Nothing is changed on disk. Raises `OptionError`.
    """
    existing = Path(os.path.realpath(folder))
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise OptionError(
            "this is a file, not a folder", given=str(existing), hint="Choose another --out."
        )
    try:
        _try_folder(existing)
    except OSError as error:
        raise _refusal("cannot use the folder", error, folder) from error
    if folder.is_dir():
        check_writable(*(folder / name for name in names))


def make_folder(folder: Path, *names: str) -> None:
    """Make a folder after the checks of `check_folder`. Raises `OptionError`."""
    check_folder(folder, *names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refusal("cannot make the folder", error, folder) from error


def check_can_plot(png: Path | None) -> None:
    """Raises `MissingExtraError` if a picture is asked for and matplotlib is not installed."""
    if png is not None and find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plot")


def check_no_decoder(command: str, generation: GenerationConfig) -> None:
    """Refuse `--decoder` and its knobs in a command that has `--decoders`."""
    if typed_options() & {"decoder", "threshold"}:
        raise OptionError(
            f"{command} runs several decoders",
            given=f"--decoder {generation.decoder}",
            hint="Name them with --decoders.",
        )


def parse_split(name: str) -> Split:
    """The split of this name. Raises `OptionError`."""
    from creditdecoding.tasks.base import SPLITS

    for split in SPLITS:
        if name == split:
            return split
    raise unknown_name("split", name, SPLITS)


def parse_whole_numbers(option: str, text: str) -> tuple[int, ...] | None:
    """Different whole numbers above 0, separated by commas or blanks, in order; None for an empty
    text. Raises `OptionError`.
    """
    parts = text.replace(",", " ").split()
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise OptionError(
            f"{option} must be whole numbers above 0",
            given=text,
            hint='Write them as "64 128 256".',
        )
    return tuple(sorted({int(part) for part in parts})) or None
