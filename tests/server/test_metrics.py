"""Metrics count what happened."""

from __future__ import annotations

from creditdecoding.lm import LM
from tests.helpers.serving import serving


def test_metrics_count_what_happened(lm: LM) -> None:
    with serving(lm) as served:
        usage = served.chat(max_tokens=64).json()["usage"]
        served.chat(tools=[{}])
        assert served.metric("diffusion_num_denoising_steps_total") == usage["nfe"]
        assert served.metric("request_num_denoising_steps_sum") == usage["nfe"]
        assert served.metric("engine_forwards") == usage["nfe"]
        assert served.metric("generation_tokens_total") == usage["completion_tokens"]
        assert served.metric("prompt_tokens_total") == usage["prompt_tokens"]
        assert served.metric("diffusion_num_committed_tokens_total") >= usage["completion_tokens"]
        positions = usage["nfe"] * (usage["prompt_tokens"] + 64)
        assert served.metric("diffusion_num_canvas_positions_total") == positions
        assert served.metric("request_success_total", finished_reason="stop") == 1
        assert served.metric("http_responses_total", status="400") == 1
        assert served.metric("time_to_first_token_seconds_count") == 1
        assert served.metric("e2e_request_latency_seconds_count") == 1
        assert served.metric("num_requests_running") == 0
