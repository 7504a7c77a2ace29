"""One side of a suite: ``python -m benching.side SUITE SIDE SETTINGS``, started by `processes`."""

from __future__ import annotations

import importlib
import json
import sys

from benching.conversation import Conversation
from kernels.errors import KernelError
from paramserver.console import run_loop
from paramserver.errors import NotReady, ParamserverError


async def take_part(conversation: Conversation, suite: str, name: str) -> None:
    """Run a side until the parent ends it; an error of ours is told."""
    try:
        await importlib.import_module(f"benching.{suite}").SIDES[name](conversation)
    except KernelError as error:
        conversation.tell(error=NotReady.__name__, text=str(error))
    except ParamserverError as error:
        conversation.tell(error=type(error).__name__, text=str(error))


def main() -> None:
    """Run the side that the arguments name."""
    suite, name, settings = sys.argv[1:]
    run_loop(take_part(Conversation(json.loads(settings)), suite, name))


if __name__ == "__main__":
    main()
