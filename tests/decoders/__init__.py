"""Tests of the decoders room."""
