"""Where ``python -m nodes`` begins: it is the command ``node``."""

from paramserver.__main__ import node as main

if __name__ == "__main__":
    main()
