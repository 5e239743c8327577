"""Process advantage verifiers ("Rewarding Progress", arXiv 2410.08146): what a finished step of an answer is worth, and what that is good for.

Leaves to others: decoding (engine.py), tasks and their scorers (tasks/), commands (cli/).
"""
