"""`make bench-peers`: our loop beside those of checkouts that you name, on one network.

    make bench-peers PEERS="--llada ~/LLaDA --dinfer https://github.com/inclusionAI/dInfer"

Runs the code of what you name, so name only what you trust; nothing of it is in this repository.
Each loop runs over the embedded model: theirs gets its logits at every position, as from their own
networks, ours where it reads them. Answers are compared id by id, passes are counted, times are
processor time of one thread in interleaved pairs, after one pair that is not timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.peer_checkouts import checkout, commit_of
from benchmarks.peer_loops import BLOCK_LENGTH, GEN_LENGTH, PEERS, Rival, SpecialIds, compiles
from benchmarks.peer_network import PeerNetwork
from creditdecoding.cli.render import show, table
from creditdecoding.config import GenerationConfig
from creditdecoding.lm import LM, load
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import distinct_items

COLUMNS = ("peer", "same ids", "same passes", "passes", "ours", "time")


@dataclass(frozen=True)
class PeerAnswer:
    """The ids after the prompt, and how many passes they took."""

    ids: list[int]
    passes: int


@dataclass(frozen=True)
class PeerResult:
    """A peer beside ours: in how many answers all ids are equal, in how many the passes; passes an
    answer; time theirs / ours (above 1: ours is faster), None if none was measured.
    """

    name: str
    decoder: str
    cache: str
    answers: int
    equal: int
    equal_passes: int
    passes: float
    our_passes: float
    time_ratio: float | None

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        return (
            self.name,
            f"{self.equal} of {self.answers}",
            f"{self.equal_passes} of {self.answers}",
            f"{self.passes:g}",
            f"{self.our_passes:g}",
            "-" if self.time_ratio is None else f"{self.time_ratio:.2f}",
        )


class Duel:
    """A peer's loop and ours, over the same network."""

    def __init__(self, lm: LM, rival: Rival) -> None:
        self.lm = lm
        self.rival = rival
        self.network = PeerNetwork(lm, rival.has_flat_cache)
        self.config = GenerationConfig(
            decoder=rival.decoder,
            cache=rival.cache,
            gen_length=GEN_LENGTH,
            block_length=BLOCK_LENGTH,
            early_stop=rival.early_stop,
        )

    def peer_answer(self, prompt: Sequence[int]) -> PeerAnswer:
        """The peer's loop. Those that stop early leave end tokens out."""
        self.network.passes = 0
        ids = self.rival.generate(self.network, torch.tensor([list(prompt)]))[0].tolist()
        return PeerAnswer(ids[len(prompt) :], self.network.passes)

    def our_answer(self, prompt: Sequence[int]) -> PeerAnswer:
        """Our loop."""
        result = self.lm.collect([self.lm.new_request(prompt, self.config)])[0]
        written = result.trace.written
        return PeerAnswer([written[position] for position in sorted(written)], result.nfe)

    def compared_ids(self, answer: PeerAnswer) -> list[int]:
        """All ids; those before the first end token where a peer leaves out what follows."""
        if not self.rival.early_stop:
            return answer.ids
        stop_ids = self.lm.vocab.stop_ids
        end = next((i for i, token in enumerate(answer.ids) if token in stop_ids), None)
        return answer.ids[:end]

    def time_ratio(self, prompt: Sequence[int]) -> float:
        """Processor time theirs / ours of one pair."""
        began = time.process_time()
        self.peer_answer(prompt)
        between = time.process_time()
        self.our_answer(prompt)
        return (between - began) / (time.process_time() - between)


@torch.inference_mode()
def compare(lm: LM, rival: Rival, prompts: Sequence[Sequence[int]], pairs: int) -> PeerResult:
    """Both loops on each prompt: once for the answers, then `pairs` times in turn for the time."""
    duel = Duel(lm, rival)
    answers = []
    ratios: list[float] = []
    for prompt in prompts:
        answers.append((duel.peer_answer(prompt), duel.our_answer(prompt)))
        ratios += [duel.time_ratio(prompt) for _ in range(pairs)]
    return PeerResult(
        name=rival.name,
        decoder=rival.decoder,
        cache=rival.cache,
        answers=len(prompts),
        equal=sum(duel.compared_ids(peer) == duel.compared_ids(own) for peer, own in answers),
        equal_passes=sum(peer.passes == own.passes for peer, own in answers),
        passes=round(statistics.mean(peer.passes for peer, _ in answers), 2),
        our_passes=round(statistics.mean(own.passes for _, own in answers), 2),
        time_ratio=round(statistics.median(ratios), 3) if ratios else None,
    )


def at_least(least: int) -> Callable[[str], int]:
    """A type of argparse: whole numbers from `least` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not allowed; give {least} or more")
        return int(text)

    return number


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    for name, peer in PEERS.items():
        option = f"--{name.replace('_', '-')}"
        help_text = f"a checkout of {peer.repository}, or a git URL to fetch"
        parser.add_argument(option, metavar="FOLDER_OR_URL", help=help_text)
    parser.add_argument(
        "--into",
        type=Path,
        default=Path("build/peers"),
        help="where a git URL is cloned, a folder for each peer",
    )
    parser.add_argument("--only", default="", help="rows with this text in their name")
    parser.add_argument("--questions", type=at_least(1), default=8)
    parser.add_argument(
        "--pairs", type=at_least(0), default=3, help="timed pairs a question; 0 measures no time"
    )
    parser.add_argument("--out", type=Path, default=Path("bench-peers.json"))
    args = parser.parse_args(arguments)
    if not named(args):
        parser.error("no peer was named; give a folder or a git URL, for example --llada ~/LLaDA")
    return args


def named(args: argparse.Namespace) -> dict[str, str]:
    """Peer -> folder or URL, of those that were named."""
    return {name: source for name in PEERS if (source := getattr(args, name)) is not None}


def rivals_of(folders: dict[str, Path], ids: SpecialIds, only: str) -> list[Rival]:
    """The loops of all checkouts whose names hold `only`."""

    def all_rivals() -> Iterator[Rival]:
        for name, folder in folders.items():
            peer = PEERS[name]
            yield from peer.rivals(peer.find(folder), ids)

    rivals = list(all_rivals())
    kept = [rival for rival in rivals if only in rival.name]
    if kept:
        return kept
    names = "; ".join(rival.name for rival in rivals)
    raise SystemExit(f"error: no row has {only!r} in its name. There are: {names}.")


def prompts_of(lm: LM, count: int) -> list[list[int]]:
    """Questions of the embedded tasks, one of each task in turn."""
    items = [distinct_items(task, "test", 0, count) for task in load_tasks("pocket")]
    in_turn = [item for one_of_each in zip(*items) for item in one_of_each]
    return [list(lm.encode(item.prompt)) for item in in_turn[:count]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare with every peer that was named."""
    args = parse_arguments(arguments)
    sources = named(args)
    folders = {name: checkout(source, args.into / name) for name, source in sources.items()}
    torch.set_num_threads(1)
    lm = load("pocket-v1", device="cpu", dtype="float32")
    ids = SpecialIds(lm.vocab.mask_id, lm.vocab.stop_ids[0])
    prompts = prompts_of(lm, args.questions)
    results = []
    for rival in rivals_of(folders, ids, args.only):
        print(f"running {rival.name} ...", file=sys.stderr)
        results.append(compare(lm, rival, prompts, args.pairs))
    title = f"pocket-v1, batch 1, one thread, {args.pairs} pairs a question; time: theirs / ours"
    show(table(COLUMNS, [result.cells for result in results], title))
    write_record(args, folders, results)


def write_record(
    args: argparse.Namespace, folders: dict[str, Path], results: Sequence[PeerResult]
) -> None:
    """The rows as JSON, with what they were measured on."""
    record = {
        "commits": {name: commit_of(folder) for name, folder in folders.items()},
        "questions": args.questions,
        "pairs": args.pairs,
        "torch": torch.__version__,
        "torch_compile": compiles(),
        "rows": [asdict(result) for result in results],
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"also in {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
