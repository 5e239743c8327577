"""Which ids may be written at each line of logits, without a mask as large as the logits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AllowedIds:
    """A constraint at the lines of a pass.

    - `class_of` [vocab]: the class of each id.
    - `row` [n]: which row of `classes` holds at a line.
    - `classes` [rows, classes]: which classes are allowed; row 0 allows all of them.
    """

    class_of: Int[Tensor, " vocab"]
    row: Int[Tensor, " n"]
    classes: Bool[Tensor, "rows classes"]

    def of(self, lines: slice | Tensor) -> AllowedIds:
        """What holds at some of the lines."""
        return replace(self, row=self.row[lines])

    def rule_out(
        self, values: Float[Tensor, "*n some_ids"], start: int
    ) -> Float[Tensor, "*n some_ids"]:
        """-inf at ids that are not allowed, in place; column 0 is the id `start`."""
        id_classes = self.class_of[start : start + values.shape[-1]]
        is_allowed = self.classes[self.row][..., id_classes]
        return values.masked_fill_(~is_allowed, float("-inf"))

    def at(self, lines: Int[Tensor, "*any"], ids: Int[Tensor, "*any k"]) -> Bool[Tensor, "*any k"]:
        """Whether a few ids of each line are allowed."""
        rows = self.row[lines][..., None]
        return self.classes[rows, self.class_of[ids]]
