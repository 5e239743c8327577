"""`make load`: 32 clients with mixed prompts, decoders and lengths against `credit serve`, every
answer held to the one obtained alone.

Throughput is set against (a) the same requests one by one and (b) an ideal static batch: all of
them known in advance, given to the
plain loop, which refills a finished row's place at once, no HTTP. The three take turns, so that a
busy machine is busy for all; beside the
clock stands the processor time of whoever decodes, which other work on the machine disturbs less.
Half of the requests are streamed. At
the end a thousand clients that never read. With --guidellm PROGRAM that load generator runs against
the same server.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import torch
from rich.console import Console
from rich.table import Table

from creditdecoding.config import GenerationConfig
from creditdecoding.lm import LM, load
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import distinct_items

DECODERS = (
    "credit",
    "credit:threshold=0.99",
    "threshold",
    "threshold:threshold=0.99",
    "klass",
    "fixed:k=4",
    "credit_adaptive",
    "factor",
)
LENGTHS = (32, 64, 96, 128)
CLIENTS = 32


@dataclass(frozen=True)
class Job:
    """A request, and what it must give."""

    prompt: str
    decoder: str
    length: int
    text: str
    tokens: int

    def config(self) -> GenerationConfig:
        return GenerationConfig(decoder=self.decoder, gen_length=self.length)


@dataclass
class Tally:
    """What the clients saw: tokens and seconds, by kind of response the waits, and what went wrong."""

    tokens: int = 0
    requests: int = 0
    seconds: float = 0.0
    processor: float = 0.0
    first: list[float] = field(default_factory=list)
    streamed: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Server:
    """`credit serve` in a process of its own."""

    def __init__(self, *flags: str) -> None:
        command = [
            sys.executable,
            "-m",
            "creditdecoding",
            "serve",
            "--port",
            "0",
            "--threads",
            "1",
            "--no-access-log",
            *flags,
        ]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert self.process.stderr is not None
        self.url = self.process.stderr.readline().split(" at ")[1].split()[0]
        self.address = urlsplit(self.url).netloc

    def processor(self) -> float:
        """Processor seconds it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(*flags: str) -> Iterator[Server]:
    server = Server(*flags)
    try:
        yield server
    finally:
        server.process.terminate()
        assert server.process.wait(60) == 0, "the server did not end well"


def ask(connection: http.client.HTTPConnection, job: Job, stream: bool, tally: Tally) -> None:
    """Send a request, read its answer, note how long it took and whether it is right."""
    body = {
        "messages": [{"role": "user", "content": job.prompt}],
        "decoder": job.decoder,
        "max_tokens": job.length,
        "stream": stream,
    }
    begun, first, text = time.perf_counter(), 0.0, ""
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"}
    )
    response = connection.getresponse()
    if response.status != 200:
        tally.wrong.append(f"status {response.status}: {response.read().decode()}")
        return
    if stream:
        while line := response.readline():
            if line.startswith(b"data: {"):
                piece = json.loads(line[6:])["choices"][0]["delta"].get("content")
                if piece:
                    first = first or time.perf_counter() - begun
                    text += piece
    else:
        text = json.loads(response.read())["choices"][0]["message"]["content"]
    (tally.streamed if stream else tally.whole).append(time.perf_counter() - begun)
    tally.first += [first] * bool(first)
    tally.tokens, tally.requests = tally.tokens + job.tokens, tally.requests + 1
    if text != job.text:
        tally.wrong.append(
            f"{job.decoder} {job.length} {job.prompt!r}: {text!r} instead of {job.text!r}"
        )


def from_clients(server: Server, jobs: list[Job], seconds: float, tally: Tally) -> None:
    """All clients at once, each one request after the other, until the time is over."""
    used, begun = server.processor(), time.perf_counter()
    parts = [Tally() for _ in range(CLIENTS)]

    def client(number: int) -> None:
        chosen, connection = (
            random.Random(number),
            http.client.HTTPConnection(server.address, timeout=120),
        )
        while time.perf_counter() < begun + seconds:
            ask(connection, chosen.choice(jobs), chosen.random() < 0.5, parts[number])
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for part in parts:
        tally.tokens, tally.requests = tally.tokens + part.tokens, tally.requests + part.requests
        for name in ("first", "streamed", "whole", "wrong"):
            getattr(tally, name).extend(getattr(part, name))
    tally.seconds += time.perf_counter() - begun
    tally.processor += server.processor() - used


def in_process(lm: LM, jobs: list[Job], batch_size: int, seconds: float, tally: Tally) -> None:
    """The same requests through the plain loop, as many at a time as may share a pass."""
    used, begun, chosen = time.process_time(), time.perf_counter(), random.Random(tally.requests)
    lm.batch_size = batch_size
    while time.perf_counter() < begun + seconds:
        batch = [chosen.choice(jobs) for _ in range(4 * batch_size)]
        rows = [
            lm.new_request(lm.encode(job.prompt), job.config(), index)
            for index, job in enumerate(batch)
        ]
        for done, job in zip(lm.collect(rows), batch):
            tally.tokens, tally.requests = tally.tokens + done.trace.token_count, tally.requests + 1
            if done.text != job.text:
                tally.wrong.append(
                    f"batch of {batch_size}, {job.decoder} {job.length} {job.prompt!r}: {done.text!r} instead of {job.text!r}"
                )
    tally.seconds += time.perf_counter() - begun
    tally.processor += time.process_time() - used


def make_jobs(lm: LM, count: int) -> list[Job]:
    """Requests of every task family, decoders and lengths in turn, each answered alone."""
    each = [distinct_items(family, "test", 0, -(-count // 8)) for family in load_tasks("pocket")]
    prompts = [item.prompt for group in zip(*each) for item in group][:count]
    found = []
    for i, prompt in enumerate(prompts):
        decoder, length = DECODERS[(i // 3) % len(DECODERS)], LENGTHS[i % len(LENGTHS)]
        done = lm.generate(prompt, decoder=decoder, gen_length=length)
        found.append(Job(prompt, decoder, length, done.text, done.trace.count))
    return found


def never_reading(server: Server, job: Job, count: int) -> str:
    """Open `count` streams and read none of them: another request must still be answered, and
    rightly.
    """
    body = json.dumps(
        {
            "messages": [{"role": "user", "content": job.prompt}],
            "stream": True,
            "draft": True,
            "max_tokens": 16,
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    host, port = server.address.rsplit(":", 1)
    held = []
    for _ in range(count):
        held.append(socket.create_connection((host, int(port)), timeout=60))
        held[-1].sendall(head + body)
    tally = Tally()
    ask(http.client.HTTPConnection(server.address, timeout=600), job, True, tally)
    for connection in held:
        connection.close()
    assert not tally.wrong, tally.wrong
    return f"{count} clients that never read: another request answered rightly after {tally.streamed[0]:.1f} s"


def quantiles(values: list[float]) -> str:
    """Median and 95th percentile in milliseconds."""
    ordered = sorted(values)
    return (
        f"{1000 * statistics.median(ordered):.0f} / {1000 * ordered[int(0.95 * (len(ordered) - 1))]:.0f}"
        if ordered
        else "-"
    )


def show(tallies: dict[str, Tally]) -> None:
    """Tables and one line of JSON."""
    best = tallies["ideal static batch"]
    table = Table(title=f"{CLIENTS} clients, mixed prompts, decoders and lengths")
    for column in ("", "requests", "tokens/s", "of (b)", "tokens/processor s", "of (b)", "wrong"):
        table.add_column(column)
    record = {}
    for name, tally in tallies.items():
        speed, work = tally.tokens / tally.seconds, tally.tokens / tally.processor
        shares = speed / (best.tokens / best.seconds), work / (best.tokens / best.processor)
        table.add_row(
            name,
            str(tally.requests),
            f"{speed:.0f}",
            f"{shares[0]:.2f}",
            f"{work:.0f}",
            f"{shares[1]:.2f}",
            str(len(tally.wrong)),
        )
        record[name] = {
            "requests": tally.requests,
            "of_ideal": round(shares[0], 3),
            "of_ideal_processor": round(shares[1], 3),
            "wrong": len(tally.wrong),
        }
    console, served = Console(width=110), tallies["served"]
    console.print(table)
    waits = Table("", "p50 / p95 ms", title="how long clients wait")
    for name, values in (
        ("first text, streamed", served.first),
        ("whole answer, streamed", served.streamed),
        ("whole answer, not streamed", served.whole),
    ):
        waits.add_row(name, quantiles(values))
    console.print(waits)
    print(json.dumps(record))


def generator(program: str, server: Server, jobs: list[Job], seconds: float) -> None:
    """guidellm against the same server."""
    folder = Path(tempfile.mkdtemp())
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": job.prompt}) + "\n" for job in jobs * 20)
    )
    tokenizer = Path(__file__).parent.parent / "creditdecoding" / "assets" / "pocket"
    options = {
        "--backend": f"kind=openai_http,target={server.url},model=pocket",
        "--profile": f"kind=concurrent,streams={CLIENTS}",
        "--constraint": f"kind=max_duration,seconds={seconds}",
        "--data": f"kind=json_file,path={folder / 'prompts.jsonl'}",
        "--tokenizer": f"kind=hf_auto,model={tokenizer}",
        "--output": "kind=console",
    }
    subprocess.run(
        [
            program,
            "run",
            *(part for pair in options.items() for part in pair),
            "--disable-progress",
        ],
        check=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=120, help="of the clients' load")
    parser.add_argument("--rounds", type=int, default=4, help="turns that the three ways take")
    parser.add_argument("--jobs", type=int, default=96, help="different requests")
    parser.add_argument(
        "--slow", type=int, default=1000, help="clients that never read, at the end"
    )
    parser.add_argument("--guidellm", help="that program, to be run as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lm = load("pocket", threads=1)
    jobs = make_jobs(lm, args.jobs)
    tallies = {"one by one": Tally(), "ideal static batch": Tally(), "served": Tally()}
    with serving("--batch-size", str(CLIENTS), "--max-waiting", str(args.slow + CLIENTS)) as server:
        from_clients(server, jobs, 2.0, Tally())
        for _ in range(args.rounds):
            from_clients(server, jobs, args.seconds / args.rounds, tallies["served"])
            in_process(
                lm, jobs, CLIENTS, args.seconds / args.rounds / 4, tallies["ideal static batch"]
            )
            in_process(lm, jobs, 1, args.seconds / args.rounds / 4, tallies["one by one"])
        show(tallies)
        print(never_reading(server, jobs[0], args.slow))
        if args.guidellm:
            generator(args.guidellm, server, jobs, args.seconds / 4)
    wrong = [text for tally in tallies.values() for text in tally.wrong]
    print("\n".join(wrong[:10]) or "every answer is the one obtained alone")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
