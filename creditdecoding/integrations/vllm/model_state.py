"""vLLM's ModelState for masked block-diffusion models: what each request carries from pass to pass,
how a pass attends, and our rules as the sampler.

A block begins right after the prompt and after every block before it. Its canvas is what vLLM calls
draft tokens: a pass reads it, the rule writes into it, and nothing is sampled until a pass has read
the final tokens, whose keys and values are then in the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.config.compilation import CUDAGraphMode
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.worker.gpu.attn_utils import build_attn_metadata
from vllm.v1.worker.gpu.model_states.interface import ModelState

from creditdecoding.errors import OptionError
from creditdecoding.integrations.blocks import ReservedIds
from creditdecoding.integrations.vllm.sampler import RequestCanvases, RuleSampler
from creditdecoding.integrations.vllm.served import FAMILIES, served_rule
from creditdecoding.integrations.vllm.spans import QuerySpans, block_spans
from creditdecoding.text.tokenizer import checkpoint_control_ids, declared_control_ids


class BlockDiffusionState(ModelState):
    """The model state that models of this plug-in return from `get_model_state_cls`."""

    num_new_sampled_tokens_per_step = 0

    def __init__(
        self, vllm_config: Any, model: Any, encoder_cache: Any, device: torch.device
    ) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        self.canvas_length: int = vllm_config.diffusion_config.canvas_length
        self.canvases = RequestCanvases(
            served_rule(vllm_config), _reserved_ids(self.model_config), self.canvas_length, device
        )

    def get_supported_generation_tasks(self) -> tuple[Any, ...]:
        """Text, and nothing else."""
        return ("generate",)

    def custom_sampler(self, sampler: Any) -> tuple[RuleSampler, None]:
        """The rule, in place of vLLM's sampler."""
        return RuleSampler(sampler, self.canvases), None

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """A request takes the slot `req_index`, new or after it was preempted."""
        self.canvases.add(req_index, new_req_data)

    def remove_request(self, req_id: str) -> None:
        """A request has ended, or was preempted; nothing of it is kept."""
        self.canvases.remove(req_id)

    def prepare_inputs_embeds(self, *inputs: Any) -> None:
        """Ids are embedded by the model."""

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        """vLLM's own ids and positions."""
        return {}

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        """As `prepare_inputs`, when graphs are captured."""
        return {}

    def prepare_attn(
        self,
        input_batch: Any,
        cudagraph_mode: CUDAGraphMode,
        block_tables: tuple[Tensor, ...],
        slot_mappings: Tensor,
        attn_groups: list[list[Any]],
        kv_cache_config: Any,
        for_capture: bool = False,
        ubatch_idx: int = 0,
    ) -> dict[str, Any]:
        """Every position sees its block and all before it: bidirectional attention, and a prompt
        block by block. Raises `OptionError` where a graph has no room for the blocks.
        """
        is_full = cudagraph_mode == CUDAGraphMode.FULL
        rows = input_batch.num_reqs_after_padding if is_full else input_batch.num_reqs
        query = {
            "num_reqs": rows,
            "query_start_loc_gpu": input_batch.query_start_loc[: rows + 1],
            "query_start_loc_cpu": torch.from_numpy(input_batch.query_start_loc_np[: rows + 1]),
            "max_query_len": int(input_batch.num_scheduled_tokens.max()),
            "seq_lens": input_batch.seq_lens,
            "block_tables": block_tables,
        }
        spans = self._prompt_spans(input_batch)
        if spans is not None and is_full:
            raise OptionError(
                "a full CUDA graph of a pass with prompts does not fit their blocks",
                given="cudagraph_mode FULL",
                allowed="FULL_DECODE_ONLY, FULL_AND_PIECEWISE, PIECEWISE or NONE",
                hint="Change cudagraph_mode in --compilation-config.",
            )
        if spans is not None:
            query |= self._query_of(spans, input_batch, block_tables)
        tokens = input_batch.num_tokens_after_padding if is_full else input_batch.num_tokens
        metadata: dict[str, Any] = build_attn_metadata(
            attn_groups=attn_groups,
            num_tokens=tokens,
            max_seq_len=self.max_model_len,
            slot_mappings=slot_mappings,
            kv_cache_config=kv_cache_config,
            for_cudagraph_capture=for_capture,
            causal=False,
            ubatch_idx=ubatch_idx,
            **query,
        )
        return metadata

    def _prompt_spans(self, input_batch: Any) -> QuerySpans | None:
        """Where the queries are cut; None if no prompt is longer than a block."""
        rows = input_batch.num_reqs
        lengths = np.diff(input_batch.query_start_loc_np[: rows + 1])
        is_canvas = ~np.asarray(input_batch.is_prefilling_np[:rows], bool)
        if (is_canvas | (lengths <= 1)).all():
            return None
        slots = input_batch.idx_mapping_np[:rows].tolist()
        spans = block_spans(
            input_batch.num_computed_prefill_tokens_np[:rows].tolist(),
            lengths.tolist(),
            [self.canvases.prompt_length(slot) for slot in slots],
            self.canvas_length,
            is_canvas.tolist(),
        )
        return spans if len(spans.rows) > rows else None

    def _query_of(
        self, spans: QuerySpans, input_batch: Any, block_tables: tuple[Tensor, ...]
    ) -> dict[str, Any]:
        """The pieces as requests over the same pages."""
        rows = async_tensor_h2d(spans.rows, device=self.device)
        behind = async_tensor_h2d(spans.behind, device=self.device)
        return {
            "num_reqs": len(spans.rows),
            "query_start_loc_gpu": async_tensor_h2d(spans.starts, device=self.device),
            "query_start_loc_cpu": torch.from_numpy(spans.starts),
            "max_query_len": spans.longest,
            "seq_lens": input_batch.seq_lens[rows] - behind,
            "block_tables": tuple(table[rows] for table in block_tables),
        }


def _reserved_ids(model_config: Any) -> ReservedIds:
    """The mask and the control tokens, from the checkpoint's files."""
    hf_config = model_config.hf_config
    known = FAMILIES.get(model_config.architecture)
    mask_id = getattr(hf_config, "mask_token_id", None)
    if mask_id is None and known is not None:
        mask_id = known.mask_id
    if mask_id is None:
        raise OptionError(
            "the checkpoint's config.json names no mask token",
            given=model_config.architecture,
            allowed="mask_token_id",
            hint="Add --hf-overrides '{\"mask_token_id\": ...}'.",
        )
    control = {
        *declared_control_ids(hf_config),
        *checkpoint_control_ids(model_config.model, getattr(model_config, "revision", None)),
    }
    return ReservedIds(int(mask_id), tuple(sorted(control)))
