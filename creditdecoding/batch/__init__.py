"""Files of requests in OpenAI's batch format: lines (lines.py), their answers (answers.py), the run
that can be killed (run.py).
"""
