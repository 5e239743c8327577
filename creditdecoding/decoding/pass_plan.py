"""Which requests share a pass, and which part of a long prompt goes with them.

A round gives each running request a pass. Prompts of block-causal models are stored in chunks that
end between two blocks, which is exact, so a long one takes its place beside the steps of others.
Under full attention a prompt depends on all that follows and cannot be cut: there a long row's pass
is computed in parts (`CutPass`), and the short rows go on in between (`LongRowTurns`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from creditdecoding.decoding.fused_head import leaves_unwritten
from creditdecoding.decoding.request import Request
from creditdecoding.decoding.scheduler import group_into_passes
from creditdecoding.models.pass_parts import count_parts

DEFAULT_POSITIONS = 2048
"""Positions of a pass of several requests, if no option sets them; as in vLLM."""
PREFILL_CHUNK = 512
"""Positions of a prompt that join a pass while other requests take steps, at most."""


@dataclass(frozen=True)
class PassLimits:
    """How many positions a pass may have, both rows of a guided request included.

    - `shared`: a pass of several requests; one that computes more has a pass of its own.
    - `alone`: a part of a prompt while nothing takes steps; None without a limit.
    - `chunk`: the parts of prompts that are stored beside steps, in a round.
    """

    shared: int = DEFAULT_POSITIONS
    alone: int | None = None
    chunk: int = PREFILL_CHUNK

    @classmethod
    def of(cls, max_positions: int | None) -> PassLimits:
        """The limits that `EngineConfig.max_num_batched_tokens` sets."""
        if max_positions is None:
            return cls()
        return cls(max_positions, max_positions, min(PREFILL_CHUNK, max_positions))

    def at_most(self, shared: int | None, alone: int | None) -> PassLimits:
        """These limits, lowered to what memory allows; None does not lower them."""
        shared = self.shared if shared is None else min(self.shared, shared)
        limits = [limit for limit in (self.alone, alone) if limit is not None]
        return PassLimits(shared, min(limits, default=None), min(self.chunk, shared))


def can_cut(request: Request, chunk: int) -> bool:
    """Whether the next pass has more than `chunk` positions and can be cut between blocks.

    Only what lies before the current block can be stored without it; the block itself is whole.
    """
    return request.prefill_left > 0 and request.pass_shape.positions > chunk


def cut_prompts(requests: Sequence[Request], limits: PassLimits) -> list[Request | None]:
    """The requests with `prefill_end` where a long prompt is cut; None for one that has to wait.

    A prompt is long if its next pass would have more positions than a chunk. All chunks of a round
    have the positions of one together, first come, first served, and what a chunk leaves is stored
    in later rounds. The last part of a prompt goes with the first step.
    """
    is_long = [can_cut(request, limits.chunk) for request in requests]
    room = _prompt_room([r for r, long in zip(requests, is_long) if not long], limits)
    planned: list[Request | None] = []
    for request, long in zip(requests, is_long):
        if long:
            is_first = not any(done and cut for done, cut in zip(planned, is_long))
            cut = _cut(request, room, is_first)
            room -= 0 if cut is None else cut.pass_shape.positions
            planned.append(cut)
        else:
            planned.append(request)
    return planned


def _prompt_room(others: Sequence[Request], limits: PassLimits) -> float:
    """Positions of long prompts in a round in which `others` take steps: what these leave of their
    last pass, if that is not next to nothing.
    """
    if not others:
        return float("inf") if limits.alone is None else limits.alone
    taken = sum(request.pass_shape.positions for request in others) % limits.shared
    left = limits.shared - taken
    return min(limits.chunk, left if 4 * left >= limits.chunk else limits.chunk)


def _cut(request: Request, room: float, is_first: bool) -> Request | None:
    """The request with a part of its prompt that fits into `room`, all of it if that fits; None if
    no block fits. The first one has a block in any case.
    """
    if request.pass_shape.positions <= room:
        return request
    block = request.geometry.causal_block
    assert block is not None
    blocks = int(room / request.sequences) // block
    length = min(max(blocks, int(is_first)) * block, request.prefill_left)
    if not length:
        return None
    return request.after_step(prefill_end=request.stored_until + length)


def plan_round(
    requests: Sequence[Request], limits: PassLimits, overhead: int, packs: bool
) -> tuple[list[Request], list[list[int]]]:
    """The requests, long prompts cut, and the passes of a round: their indices.

    - `overhead`: what a pass costs besides its positions, in positions.
    - `packs`: the model takes rows of unlike length without padding; else they are grouped by
      shape. Rows with leave-one-out columns are always padded.

    A request that has to wait for a chunk is in no pass.
    """
    cut = cut_prompts(requests, limits)
    planned = [own or request for own, request in zip(cut, requests)]
    shapes = [request.pass_shape for request in planned]
    runs = [i for i, own in enumerate(cut) if own is not None]
    packed = [i for i in runs if packs and not planned[i].capabilities.leave_one_out]
    padded = [i for i in runs if i not in set(packed)]
    passes = _fill([shapes[i].positions for i in packed], limits.shared)
    groups = [[packed[k] for k in members] for members in passes]
    if padded:
        passes = group_into_passes([shapes[i] for i in padded], overhead, limits.shared)
        groups += [[padded[k] for k in members] for members in passes]
    kinds = [kind for group in groups for kind in _kinds_of(group, planned)]
    return planned, kinds


def _kinds_of(group: list[int], requests: Sequence[Request]) -> list[list[int]]:
    """The requests of a group that share a pass.

    Where the logits of one are too large to write, none that needs whole logits joins it.
    """
    whole = [i for i in group if requests[i].needs_whole_logits]
    lean = [i for i in group if not requests[i].needs_whole_logits]
    windows = [(requests[i].geometry, requests[i].max_window) for i in lean]
    if whole and any(leaves_unwritten(*window) for window in windows):
        return [lean, whole]
    return [group]


def _fill(positions: Sequence[int], limit: int) -> list[list[int]]:
    """Indices in passes of at most `limit` positions.

    The smallest rows come first, so that steps do not wait for a prompt. A row of more positions is
    alone.
    """
    passes: list[list[int]] = []
    room = 0
    for i in sorted(range(len(positions)), key=positions.__getitem__):
        if not passes or positions[i] > room:
            passes.append([])
            room = limit
        passes[-1].append(i)
        room -= positions[i]
    return [sorted(members) for members in passes]


@dataclass
class LongRowTurns:
    """Turns of rows that cannot be cut, beside shorter ones that they must not hold up.

    A row is long if it has more positions than a chunk, or, where no row has fewer, than rows that
    share a pass. A turn is a whole pass or, where the network can stop in a pass, a part of it with
    the work of at most a chunk of positions. One long row has a turn when the short rows have
    computed as many positions since the last turn, or fewer if more long rows wait than short ones
    run.

    - `cuts_pass`: whether the pass of a row can be in parts; here no row's.
    - `computed`: positions of short rows since the last turn.
    - `last_turn`: the number of the last turn of each long row that runs; `turn`: of all.
    """

    cuts_pass: Callable[[Request], bool] = lambda request: False
    computed: float = 0
    last_turn: dict[int, int] = field(default_factory=dict)
    turn: int = 0

    def due(
        self, requests: Sequence[Request], limits: PassLimits, suspended: int | None = None
    ) -> tuple[list[Request], Request | None]:
        """The requests whose passes are in the next round, and one that has a part of its pass.

        `suspended`: the number of one whose pass has begun. It is finished before another begins,
        at once if no short row runs.
        """
        short, long_rows = _by_length(requests, limits, suspended)
        if not long_rows or (not short and suspended is None):
            return list(requests), None
        first = self._next(long_rows, suspended)
        in_parts = self.cuts_pass(first)
        share = min(1.0, len(short) / len(long_rows))
        if self.computed < share * _turn_positions(first, limits.chunk, in_parts):
            self.computed += sum(_round_positions(request, limits.chunk) for request in short)
            return short, None
        self.computed = 0
        self.turn += 1
        self.last_turn[first.index] = self.turn
        return (short, first) if in_parts else ([*short, first], None)

    def _next(self, long_rows: Sequence[Request], suspended: int | None) -> Request:
        """The one whose pass is suspended, or else whose last turn is the longest ago."""
        self.last_turn = {r.index: self.last_turn.get(r.index, 0) for r in long_rows}
        return min(
            long_rows,
            key=lambda request: (request.index != suspended, self.last_turn[request.index]),
        )


def _by_length(
    requests: Sequence[Request], limits: PassLimits, suspended: int | None
) -> tuple[list[Request], list[Request]]:
    """The short rows and the long ones; one whose pass is `suspended` stays long."""
    least = min((request.pass_shape.positions for request in requests), default=0)
    bound = limits.chunk if least <= limits.chunk else limits.shared
    short: list[Request] = []
    long_rows: list[Request] = []
    for request in requests:
        is_whole = not can_cut(request, limits.chunk)
        is_long = request.pass_shape.positions > bound and is_whole
        (long_rows if is_long or request.index == suspended else short).append(request)
    return short, long_rows


def _round_positions(request: Request, chunk: int) -> int:
    """What a short row computes in a round, of a prompt at most a chunk."""
    positions = request.pass_shape.positions
    return min(positions, chunk) if can_cut(request, chunk) else positions


def _turn_positions(request: Request, chunk: int, in_parts: bool) -> float:
    """The work of a turn, in positions of a whole pass."""
    positions = request.pass_shape.positions
    return positions / count_parts(positions, chunk) if in_parts else positions
