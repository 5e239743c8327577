"""Files of requests in OpenAI's batch format: lines (lines.py), their answers (answers.py), the run that can be killed (run.py).

Leaves to others: what a body means and how its answer looks (server/), workers on other machines (integrations/ray.py).
"""
