"""Shadow tokens: masks computed beside the text, each at the position of a token that it does not
see.

What the model predicts at a shadow is what it would write there if that had not been written (WINO,
arXiv 2507.18578). A shadow sees
the whole text but its own token, and the other shadows of its row; the text sees no shadow, so that
all else is as without them. This
is not the prediction of a text in which the position is masked: the rest of the text has seen the
token, in all layers but the first.

Where logits are shifted, a position is predicted at the column before. There its shadow is a copy
of that column, which sees neither
the token it predicts nor its own original, nor the other shadows, which are copies of text.

The position `~p` of a request for logits means the shadow of p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from creditdecoding.decoding.request import Request


@dataclass(frozen=True)
class Shadows:
    """The shadows of a pass, [rows, most]: the position each stands for, and the position and token
    it is computed with; -1: none.
    """

    of: Tensor
    at: Tensor
    tokens: Tensor
    shifted: bool

    def column(self, at_row: Tensor, position: Tensor) -> Tensor:
        """Which of its row's shadows to read for `position`, [n]; the next one, where the model
        reads one column earlier.
        """
        return (self.of[at_row] == position[:, None]).to(torch.uint8).argmax(-1) + int(self.shifted)

    def allowed(self, width: int, seen: Tensor, longest: int) -> Tensor:
        """Who sees whom, [rows, width + most, longest + most]: `width` columns and then the shadows
        see `seen` [rows] of the `longest`
        positions of the text, and then the shadows."""
        key, there = torch.arange(longest), self.of >= 0
        text = (key < seen[:, None])[:, None].expand(-1, width + there.shape[1], -1).clone()
        text[:, width:] &= (key != self.of[..., None]) & (key != self.at[..., None])
        among = torch.eye(there.shape[1], dtype=torch.bool) if self.shifted else there[:, None]
        others = torch.cat(
            (
                torch.zeros(len(there), width, there.shape[1], dtype=torch.bool),
                there[..., None] & among,
            ),
            dim=1,
        )
        return torch.cat((text, others), dim=2)


def shadows_of(rows: Sequence[Request], mask_id: int) -> Shadows | None:
    """The shadows of a pass over `rows`, None where no row wants any."""
    wanted = [torch.tensor(row.leave_one_out_positions, dtype=torch.long) for row in rows]
    if not any(len(x) for x in wanted):
        return None
    shifted = rows[0].geometry.logit_shift
    places = [(of - int(shifted)).clamp(min=0) for of in wanted]
    tokens = [
        torch.where(at == of, mask_id, row.canvas[at]) for row, of, at in zip(rows, wanted, places)
    ]
    of, at, ids = (
        pad_sequence(x, batch_first=True, padding_value=fill)
        for x, fill in ((wanted, -1), (places, -1), (tokens, mask_id))
    )
    return Shadows(of, at, ids, shifted)
