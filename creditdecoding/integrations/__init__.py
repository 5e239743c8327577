"""Other projects' interfaces on top of this one, a file each. Each needs its project installed."""
