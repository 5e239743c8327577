"""Tests of the viewer room."""
