"""Extra columns of a pass that predict a written token without seeing it (WINO, arXiv 2507.18578).

The extra column of position i is a mask at i. It sees the whole text but the token at i, and the
other extra columns of its row. The text sees no extra column, so all other predictions are as
without them. This is not the prediction of a text with i masked: from the second layer on, the rest
of the text has seen the token.

With shifted logits, position i is predicted at i - 1. There the extra column repeats position
i - 1, with i, the original of i - 1 and the other extra columns masked out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from creditdecoding.decoding.request import LogitReads, Request


@dataclass(frozen=True)
class ExtraColumns:
    """The extra columns of a pass, all [rows, most]; -1 in `target` and `position` is padding.

    `target`: the position that a column predicts; `position`, `tokens`: what it is computed with.
    """

    target: Tensor
    position: Tensor
    tokens: Tensor
    logit_shift: bool

    def column_of(self, reads: LogitReads) -> Tensor:
        """The extra column in which to read each entry, [n]; the next one if the model reads one
        column earlier.
        """
        is_target = self.target[reads.row] == reads.position[:, None]
        return is_target.to(torch.uint8).argmax(-1) + int(self.logit_shift)

    def attention_mask(self, width: int, visible: Tensor) -> Tensor:
        """Which key each column sees: [rows, width + most, max(visible) + most].

        Queries: `width` text columns, then the extra ones. Keys: the text, of which `visible`
        [rows] positions are seen, then the extra columns.
        """
        rows, most = self.target.shape
        exists = self.target >= 0
        key = torch.arange(int(visible.max()))
        text = (key < visible[:, None])[:, None].expand(-1, width + most, -1).clone()
        text[:, width:] &= (key != self.target[..., None]) & (key != self.position[..., None])
        others = torch.eye(most, dtype=torch.bool) if self.logit_shift else exists[:, None]
        extra = torch.zeros(rows, width + most, most, dtype=torch.bool)
        extra[:, width:] = exists[..., None] & others
        return torch.cat((text, extra), dim=2)


def extra_columns(requests: Sequence[Request], mask_id: int) -> ExtraColumns | None:
    """The extra columns of a pass over `requests`, None if no request needs any."""
    if not any(request.capabilities.leave_one_out for request in requests):
        return None
    shift = requests[0].geometry.logit_shift
    targets = []
    positions = []
    tokens = []
    for request in requests:
        target = torch.tensor(request.leave_one_out_positions, dtype=torch.long)
        position = (target - int(shift)).clamp(min=0)
        targets.append(target)
        positions.append(position)
        tokens.append(torch.where(position == target, mask_id, request.canvas[position]))
    if not any(len(target) for target in targets):
        return None
    return ExtraColumns(
        target=pad_sequence(targets, batch_first=True, padding_value=-1),
        position=pad_sequence(positions, batch_first=True, padding_value=-1),
        tokens=pad_sequence(tokens, batch_first=True, padding_value=mask_id),
        logit_shift=shift,
    )
