"""dInfer's own imports what its loops do not need."""

raise ImportError("No module named 'vllm'")
