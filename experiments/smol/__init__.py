"""The training data of smol that is made by rules: lists, extraction, rewriting and facts in
natural words, and worked answers of gsm_symbolic. docs/research/smol.md has the commands.
"""
