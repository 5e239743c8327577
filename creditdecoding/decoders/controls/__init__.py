"""Ablations of credit, for comparisons only."""
