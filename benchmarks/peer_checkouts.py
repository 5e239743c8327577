"""What a user names for `make bench-peers`: the folder of a checkout, or a git URL to fetch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

GIT_URL = re.compile(r"(https?|ssh|git|file)://|[\w.-]+@[\w.-]+:")
QUIET_GIT = {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
"""Git neither asks for a password nor translates its errors."""


def checkout(source: str, folder: Path) -> Path:
    """The folder `source`; of a URL a shallow clone in `folder`, which stays for the next time."""
    if not GIT_URL.match(source):
        return named_folder(source)
    if folder.exists():
        check_origin(folder, source)
        print(f"{source}: taken from {folder}; delete it to fetch anew", file=sys.stderr)
        return folder
    print(f"fetching {source} into {folder} ...", file=sys.stderr)
    clone(source, folder)
    return folder


def named_folder(source: str) -> Path:
    """The folder that was named, which must exist."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    raise SystemExit(
        f"error: no such folder: {source}. Name the folder of a checkout, or a git URL"
        " (https://..., ssh://..., file://..., user@host:...)."
    )


def clone(url: str, folder: Path) -> None:
    """The newest commit of the main branch of `url`."""
    run = git("clone", "--quiet", "--depth", "1", "--", url, str(folder))
    if run.returncode:
        raise SystemExit(
            f"error: {url} could not be fetched: {reason(run.stderr)}."
            " Check the address and the network, or name the folder of a checkout."
        )


def check_origin(folder: Path, url: str) -> None:
    """Another repository's clone must not be measured under the name of this one."""
    is_clone = (folder / ".git").exists()
    origin = git("-C", str(folder), "remote", "get-url", "origin").stdout.strip()
    if not is_clone or origin != url:
        raise SystemExit(
            f"error: {folder} exists and is no clone of {url}."
            " Delete it, or name another folder with --into."
        )


def commit_of(folder: Path) -> str | None:
    """The commit that is checked out, if `folder` is the top of a clone."""
    if not (folder / ".git").exists():
        return None
    return git("-C", str(folder), "rev-parse", "HEAD").stdout.strip() or None


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git; its status is the caller's to read."""
    try:
        return subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **QUIET_GIT},
        )
    except FileNotFoundError:
        raise SystemExit(
            "error: git was not found, and a git URL needs it."
            " Install git, or name the folder of a checkout."
        ) from None


def reason(stderr: str) -> str:
    """What git said went wrong, in one line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith("fatal:")]
    said_last = (fatal or lines or ["git gave no reason"])[-1]
    return said_last.removeprefix("fatal:").strip().rstrip(".")
