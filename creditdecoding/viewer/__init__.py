"""Traces to look at: one frame for each pass, drawn in the terminal or as a stand-alone page."""
