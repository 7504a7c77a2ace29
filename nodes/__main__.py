"""Lets ``python -m nodes`` do what the command ``node`` does."""

from nodes.cli import main

main()
