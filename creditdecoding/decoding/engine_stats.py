"""What an engine counts."""

from __future__ import annotations

from dataclasses import dataclass

COUNTERS = (
    *("finished", "failed", "aborted", "forwards", "passes", "idle", "prefill_passes"),
    *("tokens", "positions", "padding", "reused"),
)


@dataclass(frozen=True)
class EngineStats:
    """Counts since the start, and what is in progress now.

    - `waiting`, `running`: requests in the queue, and in passes, at this moment.
    - `finished`, `failed`, `aborted`: requests that ended, by how; `tokens`: of finished answers.
    - `forwards`: runs of the model; `passes`: those that a request took part in, summed over
      requests; `idle`: those that a running request waited for, summed likewise; `prefill_passes`:
      of `passes`, those that only stored a part of a prompt.
    - `positions`: computed for a request; `padding`: computed for none; `reused`: taken over from
      what another request stored.
    - `cache_bytes`: held for keys and values; `admitted_bytes`: what the running requests may take,
      by the estimate; `memory_limit`: what all may take, None if there is no limit.
    """

    waiting: int
    running: int
    finished: int
    failed: int
    aborted: int
    forwards: int
    passes: int
    idle: int
    prefill_passes: int
    tokens: int
    positions: int
    padding: int
    reused: int
    cache_bytes: int
    admitted_bytes: int
    memory_limit: int | None

    @property
    def padding_share(self) -> float:
        """Share of padding in all computed positions."""
        return self.padding / (self.positions + self.padding) if self.padding else 0.0

    @property
    def idle_share(self) -> float:
        """Share of the passes during which a running request waited for another one's."""
        return self.idle / (self.passes + self.idle) if self.idle else 0.0
