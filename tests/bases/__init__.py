"""Tests of the bases room."""
