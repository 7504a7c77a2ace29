"""Lets ``python -m paramserver`` do what the command of that name does."""

from paramserver.cli import main

main()
