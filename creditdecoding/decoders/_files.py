"""Decoder files: the mapping of a decoder's name, its knobs and, for engines that need one, a block
size.

    name: credit
    threshold: 0.95
    block_size: 32

Name and knobs are on one level, as SGLang's `--dllm-algorithm-config` expects. JSON is read too.
The only file that imports yaml.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from creditdecoding.errors import OptionError, unknown_name

SUFFIXES = (".yaml", ".yml", ".json")
FORMATS = ("sglang", "json", "text")


def is_file(name: str) -> bool:
    """Whether a decoder's name is that of a file."""
    return name.lower().endswith(SUFFIXES)


def read(path: str) -> dict[str, Any]:
    """The mapping in a YAML or JSON file. Raises `OptionError` for one that cannot be read or holds
    something else.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"the decoder file cannot be read ({error})",
            given=path,
            hint="Check the path; it must be UTF-8 text.",
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise OptionError(
            f"the decoder file is not YAML{line}", given=path, hint="Write it with: credit export"
        ) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise OptionError(
            "the decoder file holds no mapping",
            given=path,
            allowed="name: NAME, then knob: value",
            hint="Write it with: credit export",
        )
    return values


def to_text(values: Mapping[str, Any], format: str, heading: str = "") -> str:
    """A decoder's mapping as YAML under a comment, as JSON, or as `name:knob=value,...`. Raises
    `OptionError` for another format.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if format == "sglang":
        comment = "".join(f"# {line}\n" for line in heading.splitlines())
        return comment + str(yaml.safe_dump(dict(values), sort_keys=False))
    if format == "json":
        return json.dumps(dict(values), indent=1) + "\n"
    knobs = ",".join(f"{key}={value}" for key, value in values.items() if key != "name")
    return f"{values['name']}:{knobs}\n" if knobs else f"{values['name']}\n"
