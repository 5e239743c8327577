"""Process advantage verifiers ("Rewarding Progress", arXiv 2410.08146): what a finished step of an
answer is worth, and what that is good for.
"""
