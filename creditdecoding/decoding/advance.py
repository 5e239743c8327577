"""How a request moves on: a decision is written into it, tokens become final, it finishes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from creditdecoding.decoders.base import State
from creditdecoding.decoding.outcome import StepOutcome
from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.errors import OptionError
from creditdecoding.trace import FinishEvent

NO_PREFILL = {"prefill_passes": 0, "prefill_positions": 0, "reused": 0}
"""What a request's prefill fields are after a step."""


def remasked(request: Request, outcome: StepOutcome, row: int) -> NDArray[np.bool_] | None:
    """Where `row` of an outcome turns written tokens back into masks, [window]; None if nowhere.

    Raises `OptionError` if the decoder does not declare that it does so.
    """
    if outcome.remask is None:
        return None
    if not request.capabilities.can_remask:
        refuse_remask(request)
    start, end = request.decision_window
    never_written = (request.masked | request.read_only).numpy()[start:end]
    back: NDArray[np.bool_] = outcome.remask[row, : end - start] & ~never_written
    return back


def refuse_remask(request: Request) -> NoReturn:
    """Raise `OptionError` for a decoder that remasks without declaring it."""
    raise OptionError(
        "this decoder remasks tokens without declaring it",
        given=type(request.decoder).__name__,
        hint="Set capabilities = Capabilities(can_remask=True) on its class.",
    )


def apply_decision(
    request: Request, outcome: StepOutcome, row: int, state: State, mask_id: int
) -> Request:
    """The request after `row` of an outcome, with the decoder's new `state`."""
    start, end = request.decision_window
    written = outcome.commit[row, : end - start] & request.editable.numpy()[start:end]
    canvas, masked = request.canvas.clone(), request.masked.clone()
    tokens, masks = canvas.numpy()[start:end], masked.numpy()[start:end]
    tokens[written] = outcome.tokens[row, : end - start][written]
    masks[written] = False
    back = remasked(request, outcome, row)
    if back is not None:
        tokens[back] = mask_id
        masks[back] = True
    again = outcome.needs_another_pass is not None and bool(outcome.needs_another_pass[row, 0])
    return moved_on(request, canvas, masked, state, again)


def moved_on(
    request: Request, canvas: Tensor, masked: Tensor, state: State, again: bool
) -> Request:
    """The request after a step that left this `canvas`; `again`: its decoder asks for another pass.

    A block is finished when it has no mask left and its decoder does not ask for another pass. The
    next block is the first one after it that has masks. It begins without a state, unless the
    decoder's spans blocks.
    """
    stored_until = request.block_position.start
    changes = {"canvas": canvas, "masked": masked, "stored_until": stored_until, **NO_PREFILL}
    if again or masked.numpy()[slice(*request.block)].any():
        return request.after_step(state=state, step=request.step + 1, **changes)
    return _next_block(request.after_step(**changes), state)


def after_prefill(request: Request) -> Request:
    """The request after a pass that stored its positions up to `prefill_end`.

    What the pass computed is reported by the event of the next step.
    """
    start, end = request.computed_span
    return request.after_step(
        stored_until=end,
        prefill_end=None,
        prefill_passes=request.prefill_passes + 1,
        prefill_positions=request.prefill_positions + end - start,
    )


def _next_block(request: Request, state: State) -> Request:
    index = request.block_index + 1
    masks = 0
    while index < len(request.blocks):
        masks = int(request.masked.numpy()[slice(*request.blocks[index])].sum())
        if masks:
            break
        index += 1
    kept = None
    if request.capabilities.state_spans_blocks and index < len(request.blocks):
        columns = request.blocks[index][0] - request.block[0]
        kept = {name: values[:, columns:] for name, values in state.items()}
    return request.after_step(
        state=kept, block_index=index, step=0, initial_masks=masks, deferred=False
    )


def final_prefix(
    request: Request, ids: list[int], block_index: int, vocab: SpecialTokens
) -> tuple[list[int], bool]:
    """Of the answer's `ids` before its first mask: those that no later step can change, up to the
    end token, and whether that was reached.

    A decoder that can revise may still change the block in progress.
    """
    if request.capabilities.can_revise and block_index < len(request.blocks):
        ids = ids[: max(0, request.blocks[block_index][0] - request.answer_start)]
    if request.may_stop_early:
        for i, token in enumerate(ids):
            if token in vocab.stop_ids:
                return ids[:i], True
    return ids, False


def finalized_ids(request: Request, vocab: SpecialTokens) -> tuple[list[int], bool]:
    """The answer's final ids, as `final_prefix` finds them."""
    start, end = request.answer_start, request.answer_end
    masked = request.masked.numpy()[start:end]
    count = int(masked.argmax()) if masked.any() else len(masked)
    ids = request.canvas.numpy()[start : start + count].tolist()
    return final_prefix(request, ids, request.block_index, vocab)


def finish_event(request: Request, vocab: SpecialTokens, seconds: float) -> FinishEvent | None:
    """The request's last event if it is finished, at `seconds` of the run.

    It finishes at a final end token or stop string, if it may stop early, or without a mask left.
    A constrained answer is never cut off: it always ends with "stop".
    """
    ids, has_ended = finalized_ids(request, vocab)
    reason = None
    if request.is_decoded:
        is_whole = has_ended or request.constraint is not None
        reason = "stop" if is_whole else "length"
    elif has_ended and request.config.early_stop:
        reason = "stop"
    if (request.may_stop_early or request.suffix_length) and _has_stop(request, vocab, ids):
        reason = "stop"
        count = next(n for n in range(len(ids) + 1) if _has_stop(request, vocab, ids[:n]))
        ids = ids[:count]
    if reason is None:
        return None
    return FinishEvent(request.index, reason, tuple(ids), seconds, request.joined_at)


def _has_stop(request: Request, vocab: SpecialTokens, ids: Sequence[int]) -> bool:
    """Whether the text of `ids` holds a stop string."""
    if not request.config.stop:
        return False
    text = vocab.decode(ids)
    return any(stop in text for stop in request.config.stop)
