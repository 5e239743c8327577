"""Shapes in signatures are executed in tests: every function of these packages checks its tensors while tests run."""

from __future__ import annotations

import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
hook = install_import_hook(["creditdecoding.decoders", "creditdecoding.kernels", "creditdecoding.models"], "beartype.beartype")
