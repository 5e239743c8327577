"""A process that compares formulas by math-verify, for `formulas.py`; it needs no other file.

It reads lines of JSON, [seconds, expected, answer], and writes true or false for each. A comparison
that takes more seconds of computing than that ends the process: the kernel's timer also stops
arithmetic on huge numbers, which Python's signal handlers cannot.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys

from math_verify import parse, verify

MEMORY = 2 << 30
"""Bytes that it may take."""


def main() -> None:
    """Answer every line until the input ends, as it does when the parent ends."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    replies = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        seconds, expected, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        reply = _equal(expected, answer)
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(f"{json.dumps(reply)}\n")
        replies.flush()


def _equal(expected: str, answer: str) -> bool:
    """Whether both are the same; what cannot be read is not."""
    try:
        parsed = [parse(text, parsing_timeout=None) for text in (expected, answer)]
        return bool(verify(*parsed, timeout_seconds=None))
    except Exception:
        return False


if __name__ == "__main__":
    main()
