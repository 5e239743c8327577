"""`make load`: 32 clients with mixed prompts, decoders and lengths against `credit serve`; every
answer is compared with the one obtained alone.

Throughput is compared with (a) the same requests one by one and (b) an ideal static batch: all of
them known in advance, in the plain loop, which refills the place of a finished request at once, no
HTTP. The three take turns, so that other work on the machine affects all. The processor time of the
decoding process is reported too, which other work affects less. Half of the requests are streamed.
At the end there are a thousand clients that never read. With --guidellm PROGRAM that load generator
runs against the same server.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import torch

from creditdecoding.cli.render import show, table
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
URL = "/v1/chat/completions"
ALONE = "one by one"
IDEAL = "ideal static batch"
SERVED = "served"


@dataclass(frozen=True)
class Job:
    """A request, and the answer it must get."""

    prompt: str
    decoder: str
    length: int
    text: str
    tokens: int

    def config(self) -> GenerationConfig:
        return GenerationConfig(decoder=self.decoder, gen_length=self.length)

    def body(self, stream: bool) -> str:
        """The request in OpenAI's format."""
        message = {"role": "user", "content": self.prompt}
        options = {"decoder": self.decoder, "max_tokens": self.length, "stream": stream}
        return json.dumps({"messages": [message], **options})


@dataclass
class Tally:
    """Counts and times of many requests: seconds to the first text, and to the whole answer by kind
    of response; the wrong answers.
    """

    tokens: int = 0
    requests: int = 0
    seconds: float = 0.0
    processor: float = 0.0
    first_text: list[float] = field(default_factory=list)
    streamed: list[float] = field(default_factory=list)
    not_streamed: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def check(self, job: Job, text: str) -> None:
        """Count an answer."""
        self.tokens += job.tokens
        self.requests += 1
        if text != job.text:
            request = f"{job.decoder} {job.length} {job.prompt!r}"
            self.wrong.append(f"{request}: {text!r} instead of {job.text!r}")

    def merge(self, other: Tally) -> None:
        """Add the requests of another tally; not its times."""
        self.tokens += other.tokens
        self.requests += other.requests
        self.first_text += other.first_text
        self.streamed += other.streamed
        self.not_streamed += other.not_streamed
        self.wrong += other.wrong


class Server:
    """`credit serve` in a process of its own."""

    def __init__(self, *flags: str) -> None:
        options = ["serve", "--model", "pocket", "--port", "0", "--threads", "1", "--no-access-log"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "creditdecoding", *options, *flags],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
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
        assert server.process.wait(60) == 0, "the server did not exit with 0"


def ask(connection: http.client.HTTPConnection, job: Job, stream: bool, tally: Tally) -> None:
    """Send a request, read its answer, and count it."""
    started_at = time.perf_counter()
    connection.request("POST", URL, job.body(stream), {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        tally.wrong.append(f"status {response.status}: {response.read().decode()}")
    elif stream:
        text = ""
        for piece in read_pieces(response):
            if not text:
                tally.first_text.append(time.perf_counter() - started_at)
            text += piece
        tally.streamed.append(time.perf_counter() - started_at)
        tally.check(job, text)
    else:
        text = json.loads(response.read())["choices"][0]["message"]["content"]
        tally.not_streamed.append(time.perf_counter() - started_at)
        tally.check(job, text)


def read_pieces(response: http.client.HTTPResponse) -> Iterator[str]:
    """The texts of a stream of server-sent events."""
    while line := response.readline():
        if line.startswith(b"data: {"):
            piece = json.loads(line[6:])["choices"][0]["delta"].get("content")
            if piece:
                yield piece


def run_clients(server: Server, jobs: Sequence[Job], seconds: float, tally: Tally) -> None:
    """All clients at once, each with one request after the other, until the time is over."""
    processor = server.processor()
    started_at = time.perf_counter()
    parts = [Tally() for _ in range(CLIENTS)]

    def client(number: int) -> None:
        rng = random.Random(number)
        connection = http.client.HTTPConnection(server.address, timeout=120)
        while time.perf_counter() < started_at + seconds:
            ask(connection, rng.choice(jobs), rng.random() < 0.5, parts[number])
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for part in parts:
        tally.merge(part)
    tally.seconds += time.perf_counter() - started_at
    tally.processor += server.processor() - processor


def run_in_process(
    lm: LM, jobs: Sequence[Job], batch_size: int, seconds: float, tally: Tally
) -> None:
    """The same requests in the plain loop, `batch_size` in a pass, until the time is over."""
    processor = time.process_time()
    started_at = time.perf_counter()
    rng = random.Random(tally.requests)
    lm.batch_size = batch_size
    while time.perf_counter() < started_at + seconds:
        batch = [rng.choice(jobs) for _ in range(4 * batch_size)]
        requests = [
            lm.new_request(lm.encode(job.prompt), job.config(), index)
            for index, job in enumerate(batch)
        ]
        for completion, job in zip(lm.collect(requests), batch):
            tally.check(job, completion.text)
    tally.seconds += time.perf_counter() - started_at
    tally.processor += time.process_time() - processor


def make_jobs(lm: LM, count: int) -> list[Job]:
    """Requests of every task, decoders and lengths in turn, each answered alone."""
    tasks = load_tasks("pocket")
    items = [distinct_items(task, "test", 0, -(-count // len(tasks))) for task in tasks]
    prompts = [item.prompt for one_of_each in zip(*items) for item in one_of_each]
    jobs = []
    for number, prompt in enumerate(prompts[:count]):
        decoder = DECODERS[(number // 3) % len(DECODERS)]
        length = LENGTHS[number % len(LENGTHS)]
        completion = lm.generate(prompt, decoder=decoder, gen_length=length)
        tokens = completion.trace.token_count
        jobs.append(Job(prompt, decoder, length, completion.text, tokens))
    return jobs


def check_clients_that_never_read(server: Server, job: Job, count: int) -> str:
    """Open `count` streams and read none of them; another request must still be answered."""
    message = {"role": "user", "content": job.prompt}
    options = {"stream": True, "draft": True, "max_tokens": 16}
    body = json.dumps({"messages": [message], **options}).encode()
    head = (
        f"POST {URL} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    host, port = server.address.rsplit(":", 1)
    connections = []
    for _ in range(count):
        connection = socket.create_connection((host, int(port)), timeout=60)
        connection.sendall(head.encode() + body)
        connections.append(connection)
    tally = Tally()
    ask(http.client.HTTPConnection(server.address, timeout=600), job, True, tally)
    for connection in connections:
        connection.close()
    assert not tally.wrong, tally.wrong
    seconds = tally.streamed[0]
    return f"{count} clients that never read: another request was answered in {seconds:.1f} s"


def quantiles(seconds: Sequence[float]) -> str:
    """Median and 95th percentile in milliseconds."""
    if not seconds:
        return "-"
    ordered = sorted(seconds)
    median = statistics.median(ordered)
    percentile = ordered[int(0.95 * (len(ordered) - 1))]
    return f"{1000 * median:.0f} / {1000 * percentile:.0f}"


def report(tallies: dict[str, Tally]) -> None:
    """Print tables and one JSON line."""
    ideal = tallies[IDEAL]
    rows = []
    record = {}
    for name, tally in tallies.items():
        speed = tally.tokens / tally.seconds
        processor_speed = tally.tokens / tally.processor
        of_ideal = speed / (ideal.tokens / ideal.seconds)
        of_ideal_processor = processor_speed / (ideal.tokens / ideal.processor)
        wrong = len(tally.wrong)
        speeds = (f"{speed:.0f}", f"{of_ideal:.2f}")
        processor_speeds = (f"{processor_speed:.0f}", f"{of_ideal_processor:.2f}")
        rows.append((name, str(tally.requests), *speeds, *processor_speeds, str(wrong)))
        record[name] = {
            "requests": tally.requests,
            "of_ideal": round(of_ideal, 3),
            "of_ideal_processor": round(of_ideal_processor, 3),
            "wrong": wrong,
        }
    columns = ("", "requests", "tokens/s", "of (b)", "tokens/processor s", "of (b)", "wrong")
    title = f"{CLIENTS} clients, mixed prompts, decoders and lengths"
    served = tallies[SERVED]
    waits = {
        "first text, streamed": served.first_text,
        "whole answer, streamed": served.streamed,
        "whole answer, not streamed": served.not_streamed,
    }
    wait_rows = [(name, quantiles(seconds)) for name, seconds in waits.items()]
    show(
        table(columns, rows, title),
        table(("", "p50 / p95 ms"), wait_rows, "how long clients wait"),
    )
    print(json.dumps(record))


def run_guidellm(program: str, server: Server, jobs: Sequence[Job], seconds: float) -> None:
    """guidellm against the same server."""
    prompts = Path(tempfile.mkdtemp()) / "prompts.jsonl"
    lines = [json.dumps({"prompt": job.prompt}) + "\n" for job in jobs]
    prompts.write_text("".join(lines * 20))
    tokenizer = Path(__file__).parent.parent / "creditdecoding" / "assets" / "pocket"
    options = {
        "--backend": f"kind=openai_http,target={server.url},model=pocket",
        "--profile": f"kind=concurrent,streams={CLIENTS}",
        "--constraint": f"kind=max_duration,seconds={seconds}",
        "--data": f"kind=json_file,path={prompts}",
        "--tokenizer": f"kind=hf_auto,model={tokenizer}",
        "--output": "kind=console",
    }
    flags = [part for option in options.items() for part in option]
    subprocess.run([program, "run", *flags, "--disable-progress"], check=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=120, help="of the clients' load")
    parser.add_argument("--rounds", type=int, default=4, help="turns that the three ways take")
    parser.add_argument("--jobs", type=int, default=96, help="different requests")
    parser.add_argument("--slow", type=int, default=1000, help="clients that never read")
    parser.add_argument("--guidellm", help="path of that program, to run it as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lm = load("pocket", threads=1)
    jobs = make_jobs(lm, args.jobs)
    tallies = {ALONE: Tally(), IDEAL: Tally(), SERVED: Tally()}
    seconds = args.seconds / args.rounds
    with serving("--batch-size", str(CLIENTS), "--max-waiting", str(args.slow + CLIENTS)) as server:
        run_clients(server, jobs, 2.0, Tally())  # warm up
        for _ in range(args.rounds):
            run_clients(server, jobs, seconds, tallies[SERVED])
            run_in_process(lm, jobs, CLIENTS, seconds / 4, tallies[IDEAL])
            run_in_process(lm, jobs, 1, seconds / 4, tallies[ALONE])
        report(tallies)
        print(check_clients_that_never_read(server, jobs[0], args.slow))
        if args.guidellm:
            run_guidellm(args.guidellm, server, jobs, args.seconds / 4)
    wrong = [text for tally in tallies.values() for text in tally.wrong]
    print("\n".join(wrong[:10]) or "every answer equals the one obtained alone")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
