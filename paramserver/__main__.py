"""Where both commands begin: ``paramserver``, ``node``, and ``python -m paramserver``.

``node`` begins here and not in `nodes`, because the package of that name that Python finds may be
another's: that is seen before it is imported.
"""

import contextlib
import gc
import importlib
import signal
import sys

from paramserver.errors import NotReady
from paramserver.names import require_ours


def main() -> None:
    """Run the command ``paramserver``."""
    _run("paramserver", "paramserver.cli")


def node() -> None:
    """Run the command ``node``."""
    _run("node", "nodes.cli")


def _run(program: str, module: str) -> None:
    """Run a command; until it handles Ctrl-C itself, Ctrl-C ends it without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        require_ours()
    except NotReady as error:
        with contextlib.suppress(OSError):
            print(f"{program}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
    # What these modules make stays, so to look for garbage in it again and again is time lost.
    gc.disable()
    found = importlib.import_module(module)
    gc.freeze()
    gc.enable()
    found.main()


if __name__ == "__main__":
    main()
