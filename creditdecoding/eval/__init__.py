"""Evaluation of decoding: models over tasks, scores beside forward passes."""
