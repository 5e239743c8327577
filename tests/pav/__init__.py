"""Tests of the pav room."""
