"""Where the command ``node`` and ``python -m nodes`` begin."""

import signal


def main() -> None:
    """Run the command; until it handles Ctrl-C itself, Ctrl-C ends it without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from nodes.cli import main as run

    run()


if __name__ == "__main__":
    main()
