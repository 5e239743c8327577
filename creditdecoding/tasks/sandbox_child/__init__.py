"""What runs inside the sandbox's child processes: the confinement, and the two ends of a pipe that
carries calls.

A child starts without the package and without site-packages, so these files import the standard
library and one another, nothing else, and as little of it as they can: every answer that is judged
waits for them.
"""
