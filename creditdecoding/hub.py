"""Downloads checkpoints from the hub. Importing the hub client takes 0.2 s, so `checkpoint` imports
this module only when there is something to download.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from creditdecoding.errors import CheckpointError

_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt"]

# The hub client's errors, subclasses first, with a message and a hint.
_HUB_ERRORS: tuple[tuple[type[Exception], str, str], ...] = (
    (
        GatedRepoError,
        "the hub gives this checkpoint only to accounts that accepted its terms",
        "Accept them on its page, then run: hf auth login.",
    ),
    (
        RevisionNotFoundError,
        "the hub has no such revision of this checkpoint",
        "Give a branch, a tag or a commit of it, or leave the revision out.",
    ),
    (
        RepositoryNotFoundError,
        "the hub has no such checkpoint, or it is private",
        "Check the id; for a private one run: hf auth login.",
    ),
)


def download(name: str, revision: str | None, offline: bool, cache_dir: str | None) -> Path:
    """The folder of the files of the hub id `name`. Raises `CheckpointError`."""
    try:
        with _progress_bars_on_terminals_only():
            folder = snapshot_download(
                name,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=offline,
                allow_patterns=_FILES,
                ignore_patterns=["*/*"],
            )
        return Path(folder)
    except Exception as error:  # the hub client lets its HTTP library's errors through
        what, hint = _explain_hub_error(error, offline)
        requested = name if revision is None else f"{name} at {revision}"
        raise CheckpointError(what, given=requested, hint=hint) from error


def _explain_hub_error(error: Exception, offline: bool) -> tuple[str, str]:
    """What went wrong and what to do."""
    for kind, what, hint in _HUB_ERRORS:
        if isinstance(error, kind):
            return what, hint
    not_cached = offline and isinstance(error, LocalEntryNotFoundError)
    if not_cached or isinstance(error, OfflineModeIsEnabled):
        return (
            "offline, and not all of this checkpoint is in the cache",
            "Load it once without offline, or give the cache_dir or the folder where it is.",
        )
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
    return (
        f"the hub did not give it ({reason})",
        "Check the id and the network and try again: complete files are kept. "
        "Or download it elsewhere and give the folder.",
    )


@contextmanager
def _progress_bars_on_terminals_only() -> Iterator[None]:
    """Keep the hub client's progress bars out of logs."""
    disable = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if disable:
        disable_progress_bars()
    try:
        yield
    finally:
        if disable:
            enable_progress_bars()
