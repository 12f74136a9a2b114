"""`python -m parhelion` is the command `parhelion`."""

from parhelion.cli import main

main()
