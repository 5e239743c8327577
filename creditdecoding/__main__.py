"""`python -m creditdecoding`: the same as the console script `credit`."""

from creditdecoding.cli import main

main()
