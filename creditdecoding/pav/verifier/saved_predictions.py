"""Predictions of verifiers that survive a kill.

    with save_predictions(Path("m.json"), manifest) as saved:
        q = saved.predict("runs/verifier", verifier, states, tick)

They are kept in m.json.partial, part by part, until the body ends without an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creditdecoding.config import EngineConfig
from creditdecoding.eval.saved_answers import engine_options, partial_folder
from creditdecoding.fingerprint import checkpoint_digest, model_digest
from creditdecoding.pav.driver import ValueModel
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.model import verifier_folder
from creditdecoding.run_dir import Key, Record, open_journal

KEY = ("verifier", "part")
STATES_A_PART = 64


def count_parts(states: int) -> int:
    """Parts in which so many states are predicted."""
    return -(-states // STATES_A_PART)


@dataclass(frozen=True)
class SavedPredictions:
    """The predictions that a run found when it began; `append` saves further ones."""

    records: Mapping[Key, Record]
    append: Callable[[Record], object]

    def predict(
        self,
        name: str,
        verifier: ValueModel,
        states: Sequence[PartialAnswer],
        tick: Callable[[], object],
    ) -> list[float]:
        """Q of each state under the verifier `name`; `tick` counts the parts that are computed."""
        q: list[float] = []
        for part in range(count_parts(len(states))):
            record = self.records.get((name, part))
            if record is None:
                start = part * STATES_A_PART
                values = verifier.q(states[start : start + STATES_A_PART]).tolist()
                record = {"verifier": name, "part": part, "q": values}
                self.append(record)
                tick()
            q += record["q"]
        return q


@contextmanager
def save_predictions(out: Path | None, manifest: Mapping[str, Any]) -> Iterator[SavedPredictions]:
    """Save predictions next to `out` while the body runs; without an output they are not saved.

    Raises `OptionError` if the folder has predictions of other settings.
    """
    if out is None:
        yield SavedPredictions({}, lambda _: None)
        return
    with (
        open_journal(partial_folder(out), manifest, KEY) as journal,
        journal.writer() as append,
    ):
        yield SavedPredictions(journal.read(), append)
    journal.delete()


def predictions_manifest(
    kind: str, labels: Path, model: str, engine: EngineConfig, verifiers: Mapping[str, Path]
) -> dict[str, Any]:
    """What predictions depend on: the store of labels, checkpoint, verifiers and engine."""
    return {
        "kind": kind,
        "labels": hashlib.blake2b(labels.read_bytes(), digest_size=8).hexdigest(),
        "model": model,
        "checkpoint": model_digest(model, engine),
        "verifiers": {
            name: checkpoint_digest(verifier_folder(path)) for name, path in verifiers.items()
        },
        "engine": engine_options(engine),
    }
