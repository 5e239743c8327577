"""Tiny random checkpoints in the released file formats, family by family; see tests/make_checkpoint.py."""
