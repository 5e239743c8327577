"""Tiny random checkpoints in the released file formats, family by family; see
tools/make_checkpoint.py.
"""
