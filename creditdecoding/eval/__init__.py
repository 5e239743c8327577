"""Evaluation of decoding: models over tasks, scores next to forward passes."""
