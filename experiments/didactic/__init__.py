"""The didactic task of "Rewarding Progress" (arXiv 2410.08146): a planted sub-sequence, where the
worth of every step is known exactly.

Files: options.py, task.py (task and provers), values.py (Q, V and A), policy.py (what learns),
learn.py (how), run.py (many runs, kept in a
file), report.py (what they say).
"""
