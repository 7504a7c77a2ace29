"""Where ``scripts/bench`` begins."""

import signal


def main() -> None:
    """Run the command; until it handles Ctrl-C itself, Ctrl-C ends it without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from benching.cli import main as run

    run()


if __name__ == "__main__":
    main()
