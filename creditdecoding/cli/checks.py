"""What a long run would find out only at its end, refused before it begins; what several commands refuse alike.

Leaves to others: options by themselves (config.py), what a run needs of a model or of items (eval/, tasks/).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from creditdecoding.config import GenerationConfig
from creditdecoding.errors import MissingExtraError, OptionError, unknown_name

if TYPE_CHECKING:
    from creditdecoding.tasks.base import Split


def writable(*paths: Path | None) -> None:
    """Refuse files whose folder is not there."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise OptionError("the folder of this file is not there", given=str(path), hint="Make it first: a run can take long.")


def made(folder: Path) -> None:
    """Make a folder, or refuse it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"cannot make the folder ({error.strerror})", given=str(folder), hint="Choose another --out.") from error


def drawable(png: Path | None) -> None:
    """Refuse a picture without matplotlib."""
    if png is not None and find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plot")


def several(command: str, generation: GenerationConfig) -> None:
    """Refuse `--decoder` where `--decoders` names them."""
    if generation.decoder != GenerationConfig().decoder:
        raise OptionError(f"{command} runs several decoders", given=f"--decoder {generation.decoder}", hint="Name them with --decoders.")


def split_named(name: str) -> Split:
    """The split of this name."""
    from creditdecoding.tasks.base import SPLITS

    for known in SPLITS:
        if name == known:
            return known
    raise unknown_name("split", name, SPLITS)


def whole_numbers(name: str, text: str) -> tuple[int, ...] | None:
    """Whole numbers separated by commas or blanks, None for none."""
    words = text.replace(",", " ").split()
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise OptionError(f"{name} must be whole numbers above 0", given=text, hint='Write them as "64 128 256".')
    return tuple(sorted({int(word) for word in words})) or None
