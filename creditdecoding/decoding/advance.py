"""How a request moves on: a decision is written into it, tokens become final, it finishes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from creditdecoding.decoders.base import Decision, State
from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.errors import OptionError
from creditdecoding.trace import FinishEvent


def remasked(request: Request, decision: Decision, row: int) -> Tensor:
    """Where `row` of a decision turns written tokens back into masks, [window].

    Raises `OptionError` if the decoder does not declare that it does so.
    """
    start, end = request.decision_window
    if decision.remask is None:
        return torch.zeros(end - start, dtype=torch.bool)
    if not request.capabilities.can_remask:
        raise OptionError(
            "this decoder remasks tokens without declaring it",
            given=type(request.decoder).__name__,
            hint="Set capabilities = Capabilities(can_remask=True) on its class.",
        )
    is_written = ~(request.masked | request.read_only)[start:end]
    return decision.remask[row, : end - start] & is_written


def apply_decision(
    request: Request, decision: Decision, row: int, state: State, mask_id: int
) -> Request:
    """The request after `row` of a decision, with the decoder's new `state`.

    A block is finished when it has no mask left and its decoder does not ask for another pass. The
    next block is the first one after it that has masks. It begins without a state, unless the
    decoder's spans blocks.
    """
    start, end = request.decision_window
    window = slice(start, end)
    written = decision.commit[row, : end - start] & request.editable[window]
    back = remasked(request, decision, row)
    canvas = request.canvas.clone()
    canvas[window] = torch.where(written, decision.tokens[row, : end - start], canvas[window])
    canvas[window].masked_fill_(back, mask_id)
    masked = request.masked.clone()
    masked[window] = masked[window] & ~written | back
    request = replace(
        request, canvas=canvas, masked=masked, stored_until=request.block_position.start
    )
    again = decision.needs_another_pass is not None and bool(decision.needs_another_pass[row])
    if again or bool(masked[slice(*request.block)].any()):
        return replace(request, state=state, step=request.step + 1)
    return _next_block(request, state)


def _next_block(request: Request, state: State) -> Request:
    index = request.block_index + 1
    masks = 0
    while index < len(request.blocks):
        masks = int(request.masked[slice(*request.blocks[index])].sum())
        if masks:
            break
        index += 1
    kept = None
    if request.capabilities.state_spans_blocks and index < len(request.blocks):
        columns = request.blocks[index][0] - request.block[0]
        kept = {name: values[:, columns:] for name, values in state.items()}
    return replace(request, state=kept, block_index=index, step=0, initial_masks=masks)


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
    answer = slice(request.answer_start, request.answer_end)
    count = int((~request.masked[answer]).long().cumprod(0).sum())
    ids = request.canvas[answer][:count].tolist()
    return final_prefix(request, ids, request.block_index, vocab)


def finish_event(request: Request, vocab: SpecialTokens, seconds: float) -> FinishEvent | None:
    """The request's last event if it is finished, at `seconds` of the run.

    It finishes at a final end token or stop string, if it may stop early, or without a mask left.
    """
    ids, has_ended = finalized_ids(request, vocab)
    reason = None
    if request.is_decoded:
        reason = "stop" if has_ended else "length"
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
