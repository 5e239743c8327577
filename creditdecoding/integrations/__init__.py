"""Other projects' interfaces on top of this one, a file each. Those that import their project say
so when it is missing.
"""
