"""What an engine says of errors that models and decoders raise."""

from __future__ import annotations

import torch

from creditdecoding.errors import CreditError

TAKE_LESS = "Shorten prompt or answer, lower block_length, or give the process more memory."


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a device or on the host."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    signs = ("out of memory", "can't allocate", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def error_line(error: Exception) -> str:
    """An error as one line for the caller.

    Errors of this package say what to do themselves; others are named by their class.
    """
    if isinstance(error, CreditError):
        return str(error)
    if is_out_of_memory(error):
        return str(CreditError("memory ran out in this request's pass", hint=TAKE_LESS))
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return str(CreditError(f"the pass failed: {text}", hint="Report this with the request."))
