"""What a long run would find out only at its end, refused before it begins; what several commands
refuse alike.
"""

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
    """Refuse files that could not be written in the end: no folder, a folder of that name, no
    right, no room, one file for two outputs.
    """
    given = [path for path in paths if path is not None]
    for number, path in enumerate(given):
        if _whole(path) in map(_whole, given[:number]):
            raise OptionError(
                "two outputs are the same file",
                given=str(path),
                hint="Give each a file of its own.",
            )
        try:
            _check_file(path)
        except OSError as error:
            raise _refusal("this file cannot be written", error, path) from error


def _whole(path: Path) -> str:
    """The path without links and dots, as text."""
    return os.path.realpath(path)


def _check_file(path: Path) -> None:
    """Raises `OptionError` or `OSError` where `path` cannot become a file."""
    target = Path(_whole(path))
    if not target.parent.is_dir():
        raise OptionError(
            "the folder of this file is not there",
            given=str(path),
            hint="Make it first: a run can take long.",
        )
    if target.is_dir():
        raise OptionError("this is a folder", given=str(path), hint="Give a file in it.")
    if target.exists() and not target.is_file():
        return  # a device or a pipe: what it takes is known when it is written to
    if target.exists():
        with open(target, "ab"):
            pass
    _try_folder(target.parent)


def _try_folder(folder: Path) -> None:
    """Write a little to a file without a name in this folder. Raises `OSError`."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(4096))


def _refusal(what: str, error: OSError, path: Path) -> OptionError:
    hint = "Make room." if error.errno == errno.ENOSPC else "Choose another place."
    return OptionError(f"{what} ({error.strerror})", given=str(path), hint=hint)


def check_folder(folder: Path, *names: str) -> None:
    """Refuse a folder that could not be made or written to, or in which one of these files is
    something else; make nothing.
    """
    try:
        _check_folder(folder)
    except OSError as error:
        raise _refusal("cannot use the folder", error, folder) from error
    if folder.is_dir():
        check_writable(*(folder / name for name in names))


def _check_folder(folder: Path) -> None:
    """Raises `OptionError` or `OSError` where the nearest folder that is there cannot be written
    to.
    """
    nearest = Path(_whole(folder))
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        raise OptionError(
            "this is a file, not a folder", given=str(nearest), hint="Choose another --out."
        )
    _try_folder(nearest)


def make_folder(folder: Path, *names: str) -> None:
    """Make a folder, or refuse it as `usable` does."""
    check_folder(folder, *names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"cannot make the folder ({error.strerror})",
            given=str(folder),
            hint="Choose another --out.",
        ) from error


def check_can_plot(png: Path | None) -> None:
    """Refuse a picture without matplotlib."""
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
    """The split of this name."""
    from creditdecoding.tasks.base import SPLITS

    for known in SPLITS:
        if name == known:
            return known
    raise unknown_name("split", name, SPLITS)


def parse_whole_numbers(name: str, text: str) -> tuple[int, ...] | None:
    """Whole numbers separated by commas or blanks, None for none."""
    words = text.replace(",", " ").split()
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise OptionError(
            f"{name} must be whole numbers above 0", given=text, hint='Write them as "64 128 256".'
        )
    return tuple(sorted({int(word) for word in words})) or None
