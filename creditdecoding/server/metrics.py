"""What the server counts, for Prometheus: vLLM's names with the prefix `credit:`, so that its
dashboards need one replacement.

Denoising steps are forward passes of requests (NFE), canvas positions what went through the network
for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from creditdecoding.decoding.engine import EngineStats
from creditdecoding.decoding.request import Request
from creditdecoding.errors import MissingExtraError
from creditdecoding.trace import Event, FailEvent, StepEvent

try:
    from prometheus_client import (
        CONTENT_TYPE_LATEST,
        CollectorRegistry,
        Counter,
        Gauge,
        Histogram,
        generate_latest,
    )
except ImportError as error:
    raise MissingExtraError("prometheus-client", "server") from error

if TYPE_CHECKING:
    from creditdecoding.server.async_engine import Answer

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
RATIO = (0.5, 1, 2, 4, 6, 8, 12, 16, 24, 32, 64)

COUNTERS = {
    "diffusion_num_denoising_steps": "Forward passes of requests (NFE); requests that share a pass count one each.",
    "diffusion_num_canvas_positions": "Positions that went through the network for requests.",
    "diffusion_num_committed_tokens": "Positions written, end tokens included.",
    "prompt_tokens": "Tokens of prompts.",
    "generation_tokens": "Tokens of answers that ended.",
}
HISTOGRAMS = {
    "time_to_first_token_seconds": ("From admission to the first text that is final.", SECONDS),
    "e2e_request_latency_seconds": ("From admission to the end.", SECONDS),
    "request_queue_time_seconds": ("From admission to the first pass.", SECONDS),
    "request_prompt_tokens": ("Prompt tokens a request.", TOKENS),
    "request_generation_tokens": ("Answer tokens a request.", TOKENS),
    "request_num_denoising_steps": ("Forward passes a request (NFE).", TOKENS),
    "request_tokens_per_forward": ("Answer tokens a forward pass of a request (TPF).", RATIO),
}
GAUGES = {
    "num_requests_running": "Requests in the engine.",
    "num_requests_waiting": "Requests in the queue.",
    "kv_cache_bytes": "Bytes held for keys and values.",
    "kv_cache_usage_perc": "Share of the memory for rows that those under way may take, 1 is all.",
    "engine_forwards": "Runs of the network since the engine was made.",
    "engine_padding_share": "Share of computed positions that no request needed.",
}


class Metrics:
    """Counters, gauges and histograms of one server, in a registry of their own."""

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        self._label = {"model_name": model}
        names, space = ["model_name"], "credit:"
        self._counters = {
            n: Counter(space + n, text, names, registry=self._registry).labels(**self._label)
            for n, text in COUNTERS.items()
        }
        self._gauges = {
            n: Gauge(space + n, text, names, registry=self._registry).labels(**self._label)
            for n, text in GAUGES.items()
        }
        self._histograms = {
            n: Histogram(space + n, text, names, buckets=buckets, registry=self._registry).labels(
                **self._label
            )
            for n, (text, buckets) in HISTOGRAMS.items()
        }
        self._ends = Counter(
            f"{space}request_success",
            "Requests that ended, by how: stop, length, abort, model, memory, error.",
            [*names, "finished_reason"],
            registry=self._registry,
        )
        self._statuses = Counter(
            f"{space}http_responses",
            "Responses by status.",
            [*names, "status"],
            registry=self._registry,
        )

    def on_admitted(self, row: Request) -> None:
        """A request was admitted."""
        given = row.answer_start + row.suffix_length
        self._counters["prompt_tokens"].inc(given)
        self._histograms["request_prompt_tokens"].observe(given)

    def heard(self, event: Event | FailEvent, answer: Answer) -> None:
        """Something happened to a request."""
        if isinstance(event, StepEvent):
            self._counters["diffusion_num_denoising_steps"].inc()
            self._counters["diffusion_num_canvas_positions"].inc(event.computed * event.sequences)
            self._counters["diffusion_num_committed_tokens"].inc(sum(event.committed))
        elif isinstance(event, FailEvent):
            self.on_ended(event.reason)
        else:
            self.on_ended(event.reason)
            self._finished(answer, len(event.tokens))

    def on_ended(self, how: str) -> None:
        """A request ended."""
        self._ends.labels(**self._label, finished_reason=how).inc()

    def on_response(self, status: int) -> None:
        """A response was begun."""
        self._statuses.labels(**self._label, status=str(status)).inc()

    def _finished(self, answer: Answer, tokens: int) -> None:
        self._counters["generation_tokens"].inc(tokens)
        seen = {
            "time_to_first_token_seconds": (answer.first_text_at or answer.ended_at)
            - answer.admitted_at,
            "e2e_request_latency_seconds": answer.ended_at - answer.admitted_at,
            "request_queue_time_seconds": answer.queue_seconds,
            "request_generation_tokens": tokens,
            "request_num_denoising_steps": answer.nfe,
            "request_tokens_per_forward": tokens / max(answer.nfe, 1),
        }
        for name, value in seen.items():
            self._histograms[name].observe(value)

    def text(self, stats: EngineStats | None) -> bytes:
        """Everything in Prometheus' text format; `stats` are the engine's of this moment, None if
        it has ended.
        """
        if stats is not None:
            shown = {
                "num_requests_running": stats.running,
                "num_requests_waiting": stats.waiting,
                "kv_cache_bytes": stats.cache_bytes,
                "kv_cache_usage_perc": stats.admitted_bytes / stats.memory_limit
                if stats.memory_limit
                else 0.0,
                "engine_forwards": stats.forwards,
                "engine_padding_share": stats.padding_share,
            }
            for name, value in shown.items():
                self._gauges[name].set(value)
        return generate_latest(self._registry)
