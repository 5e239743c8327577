"""Code that runs inside the sandbox's child processes: the confinement, and both ends of the pipe
that carries calls.

A child starts without this package's parent and without site-packages, so these files import only
the standard library and one another, and as little of it as they can: every answer that is judged
waits for them.
"""
