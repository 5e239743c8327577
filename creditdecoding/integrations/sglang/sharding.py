"""Logits that stay sharded over tensor-parallel processes: `vocab_parallel` of a decoder's file.

Nothing of SGLang is imported: its model runner says what it does.
"""

from __future__ import annotations

import logging
from typing import Any

from creditdecoding.decoders import VOCAB_PARALLEL

logger = logging.getLogger(__name__)


def leave_vocabulary_sharded(model_runner: Any) -> bool:
    """Let every tensor-parallel process keep the logits of its own ids, from the next pass on.

    False, with a warning, where SGLang does not collect the logits over that group. CUDA graphs
    were captured with the collection, which they repeat: a warning names the passes that replay
    them.
    """
    processor: Any = getattr(model_runner.model, "logits_processor", None)
    is_gathered = getattr(processor, "do_tensor_parallel_all_gather", False)
    over_other_groups = ("do_tensor_parallel_all_gather_dp_attn", "use_attn_tp_group")
    if not is_gathered or any(getattr(processor, name, False) for name in over_other_groups):
        logger.warning("%s: the logits are not collected over tp_size; no effect", VOCAB_PARALLEL)
        return False
    captured = captured_batch_sizes(model_runner)
    if captured:
        logger.warning(
            "%s: no effect in passes of up to %d requests, which replay CUDA graphs that collect "
            "the logits. Launch with --cuda-graph-backend-decode=disabled.",
            VOCAB_PARALLEL,
            max(captured),
        )
    processor.do_tensor_parallel_all_gather = False
    return True


def captured_batch_sizes(model_runner: Any) -> list[int]:
    """Batch sizes of the graphs that SGLang replays in passes of a diffusion model, which are those
    of its decode phase. Graphs of its prefill phase end before the logits.
    """
    return list(getattr(model_runner, "decode_cuda_graph_capture_bs", None) or [])
