"""Traces to look at: data a step (frames.py), drawn in the terminal, as PNG and as a stand-alone
HTML page.
"""
