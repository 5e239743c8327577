"""Prometheus metrics: vLLM's names with the prefix `credit:`, so that its dashboards need one
replacement.

Denoising steps are forward passes of requests (NFE); canvas positions are the positions that these
passes computed.
"""

from __future__ import annotations

from typing import Any

from creditdecoding.decoding.engine_stats import EngineStats
from creditdecoding.errors import MissingExtraError
from creditdecoding.trace import StepEvent

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

CONTENT_TYPE = CONTENT_TYPE_LATEST
PREFIX = "credit:"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
RATIO = (0.5, 1, 2, 4, 6, 8, 12, 16, 24, 32, 64)

COUNTERS = {
    "diffusion_num_denoising_steps": "Forward passes of requests (NFE), shared ones once for each.",
    "diffusion_num_canvas_positions": "Positions computed by the network for requests.",
    "diffusion_num_committed_tokens": "Tokens committed, end tokens included.",
    "prefill_passes": "Passes of requests that only stored a part of a long prompt.",
    "prefix_cache_hits": "Positions of prompts taken over from earlier requests.",
    "prompt_tokens": "Tokens of prompts.",
    "generation_tokens": "Tokens of finished answers.",
}
HISTOGRAMS = {
    "time_to_first_token_seconds": ("From admission to the first final text.", SECONDS),
    "e2e_request_latency_seconds": ("From admission to the end.", SECONDS),
    "request_queue_time_seconds": ("From admission to the first pass.", SECONDS),
    "request_prompt_tokens": ("Prompt tokens per request.", TOKENS),
    "request_generation_tokens": ("Answer tokens per request.", TOKENS),
    "request_num_denoising_steps": ("Forward passes per request (NFE).", TOKENS),
    "request_tokens_per_forward": ("Answer tokens per forward pass of a request (TPF).", RATIO),
}
GAUGES = {
    "num_requests_running": "Requests in the engine.",
    "num_requests_waiting": "Requests in the queue.",
    "kv_cache_bytes": "Bytes of cached keys and values.",
    "kv_cache_usage_perc": "Share of the memory budget that running requests may use; 1 is all.",
    "engine_forwards": "Runs of the network since the engine was made.",
    "engine_padding_share": "Share of computed positions that no request needed.",
    "engine_idle_share": "Share of passes during which a running request waited for another one's.",
}
ENDS = "Requests that ended, by how: stop, length, abort, model, memory, error."


class Metrics:
    """Counters, gauges and histograms of one server, in their own registry."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._registry = CollectorRegistry()
        new = self._new
        self._counters = {name: new(Counter, name, text) for name, text in COUNTERS.items()}
        self._gauges = {name: new(Gauge, name, text) for name, text in GAUGES.items()}
        self._histograms = {
            name: new(Histogram, name, text, buckets=buckets)
            for name, (text, buckets) in HISTOGRAMS.items()
        }
        self._ends = new(Counter, "request_success", ENDS, "finished_reason")
        self._responses = new(Counter, "http_responses", "Responses by status.", "status")

    def _new(self, kind: Any, name: str, text: str, *labels: str, **options: Any) -> Any:
        """A metric of this model; one with more labels still needs their values."""
        names = ["model_name", *labels]
        metric = kind(PREFIX + name, text, names, registry=self._registry, **options)
        return metric if labels else metric.labels(self._model)

    def on_admitted(self, prompt_tokens: int) -> None:
        """A request was admitted."""
        self._counters["prompt_tokens"].inc(prompt_tokens)
        self._histograms["request_prompt_tokens"].observe(prompt_tokens)

    def on_step(self, event: StepEvent) -> None:
        """A request had a step."""
        values = {
            "diffusion_num_denoising_steps": 1,
            "diffusion_num_canvas_positions": event.computed * event.sequences,
            "diffusion_num_committed_tokens": sum(event.committed),
            "prefill_passes": event.prefill,
            "prefix_cache_hits": event.reused,
        }
        for name, value in values.items():
            self._counters[name].inc(value)

    def on_end(self, reason: str) -> None:
        """A request ended, with or without an answer."""
        self._ends.labels(self._model, reason).inc()

    def on_answer(
        self,
        *,
        tokens: int,
        nfe: int,
        queue_seconds: float,
        first_text_seconds: float,
        total_seconds: float,
    ) -> None:
        """A request was answered; times run from its admission."""
        self._counters["generation_tokens"].inc(tokens)
        values = {
            "time_to_first_token_seconds": first_text_seconds,
            "e2e_request_latency_seconds": total_seconds,
            "request_queue_time_seconds": queue_seconds,
            "request_generation_tokens": tokens,
            "request_num_denoising_steps": nfe,
            "request_tokens_per_forward": tokens / max(nfe, 1),
        }
        for name, value in values.items():
            self._histograms[name].observe(value)

    def on_response(self, status: int) -> None:
        """A response was begun."""
        self._responses.labels(self._model, str(status)).inc()

    def render(self, stats: EngineStats | None) -> bytes:
        """All metrics in Prometheus' text format; `stats` of this moment, None if the engine has
        ended.
        """
        if stats is not None:
            values = {
                "num_requests_running": stats.running,
                "num_requests_waiting": stats.waiting,
                "kv_cache_bytes": stats.cache_bytes,
                "kv_cache_usage_perc": stats.admitted_bytes / stats.memory_limit
                if stats.memory_limit
                else 0.0,
                "engine_forwards": stats.forwards,
                "engine_padding_share": stats.padding_share,
                "engine_idle_share": stats.idle_share,
            }
            for name, value in values.items():
                self._gauges[name].set(value)
        return generate_latest(self._registry)
