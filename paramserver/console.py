"""What both commands share: errors as one line, exit codes, logging, secrets, signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import typer

from kernels.errors import KernelError
from paramserver.config import PeerConfig
from paramserver.errors import ConfigurationError, NotReady, ParamserverError, UserError
from paramserver.types import PeerId

log = logging.getLogger(__name__)

T = TypeVar("T")

SHORTEST_SECRET = 16

USAGE: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
"""What a wrong command line raises: click's own, which typer brings along under its own name."""


def say(text: str) -> None:
    """Print a line for a person: to stderr, since stdout is for results; see `said_through`.

    Nobody reading it is no reason to stop.
    """
    sink = _sink.get()
    with contextlib.suppress(OSError, ValueError):
        if sink is not None:
            sink(text)
        elif sys.stderr is not None:  # as where it was closed before the start
            print(text, file=sys.stderr, flush=True)


_sink: ContextVar[Callable[[str], None] | None] = ContextVar("sink", default=None)


@contextlib.contextmanager
def said_through(sink: Callable[[str], None]) -> Iterator[None]:
    """Give what this task, or thread, says to ``sink`` while the context is open."""
    token = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(token)


@contextlib.contextmanager
def hushed(quiet: bool = True) -> Iterator[None]:
    """Say nothing while the context is open, if ``quiet``."""
    with said_through(lambda text: None) if quiet else contextlib.nullcontext():
        yield


def run_app(app: typer.Typer, program: str) -> None:
    """Run a command line; an error of ours is one clear line and its exit code."""
    _open_standard_streams()
    try:
        code = app(prog_name=program, standalone_mode=False)
        raise SystemExit(code if isinstance(code, int) else 0)
    except USAGE as error:
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
            context.get_help()  # prints by itself
            raise SystemExit(UserError.exit_code) from None
        path = context.command_path if context is not None else program
        _fail(program, f"{_usage_text(error)}: see `{path} --help`", UserError.exit_code)
    except Interrupted as error:
        end_by(error.number)
    except KernelError as error:
        _fail(program, str(error), NotReady.exit_code)
    except ParamserverError as error:
        _fail(program, str(error), error.exit_code)
    except OSError as error:
        # What could not be printed is not tried again at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(1) from None  # nobody reads what we print any more
        _fail(program, f"cannot go on: {error}", ParamserverError.exit_code)


def _open_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed, so that no socket takes its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def _usage_text(error: BaseException) -> str:
    text: str = error.format_message() if hasattr(error, "format_message") else str(error)
    return " ".join(text.split()).rstrip(".")


def _fail(program: str, text: str, code: int) -> None:
    for line in text.splitlines():
        say(f"{program}: {line}")
    raise SystemExit(code)


def start_logging(level: str = "info") -> None:
    """Log to stderr with time, level and origin."""
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop where it is installed, else on asyncio's own loop."""
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        new_loop = uvloop.new_event_loop
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(main)
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # uvloop leaves its own, which do nothing any more
                    signal.signal(number, handler)


def read_secret(config: PeerConfig) -> bytes:
    """Return the cluster's secret from ``cluster.secret_file``; empty where there is none.

    Raises:
        ConfigurationError: the file is missing, too short or readable by others.
    """
    path = config.cluster.secret_file
    if path is None:
        return b""
    return secret_of(path)


def secret_of(path: Path) -> bytes:
    """Read a secret file: at least 16 bytes, white space around it aside."""
    try:
        secret = path.read_bytes().strip()
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigurationError(f"cluster.secret_file: {path}: {error.strerror}") from error
    if len(secret) < SHORTEST_SECRET:
        raise ConfigurationError(
            f"cluster.secret_file: {path}: shorter than {SHORTEST_SECRET} bytes; make one with "
            f"`openssl rand -hex 32 > {path}`"
        )
    if mode & 0o077:
        raise ConfigurationError(
            f"cluster.secret_file: {path}: others may read it; `chmod 600 {path}`"
        )
    return secret


def new_identity(name: str | None) -> PeerId:
    """Return this process's name and incarnation; incarnations grow from one life to the next."""
    if name is None:
        host = socket.gethostname().partition(".")[0] or "peer"
        name = f"{host}-{os.getpid()}-{secrets.token_hex(2)}"
    return PeerId(name, time.time_ns())


def check_join(join: str | None) -> None:
    """Refuse an address that is none.

    Raises:
        UserError: it is not host:port.
    """
    if join is None:
        return
    host, colon, port = join.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise UserError(f"--join {join}: write it as host:port, such as 127.0.0.1:7000")


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked for the end; see `interruptible`."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Have SIGINT, SIGTERM and SIGHUP raise `Interrupted` in the context, so that it is undone.

    That is between two steps of Python: after a call into a library, a driver's say. If that step lies
    in a callback whose errors Python ignores, as its import system has them, it is at the context's
    end. From then on they end the process at once.
    """
    got: list[signal.Signals] = []
    taken = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]

    def give_back() -> None:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)

    def handle(number: int, _frame: FrameType | None) -> None:
        give_back()
        got.append(signal.Signals(number))
        raise Interrupted(got[0])

    for number in taken:
        signal.signal(number, handle)
    try:
        yield
    finally:
        give_back()
    if got:
        raise Interrupted(got[0])


def end_by(number: signal.Signals) -> None:
    """End this process by a signal, so that whoever started it sees the truth."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # as process 1 of a container, which signals do not end


class Signals:
    """SIGINT, SIGTERM and SIGHUP: the first asks for an end in good order, the second forces it.

    After the end, `reraise` ends the process by the signal that it got. ``forced`` is called before
    the second signal ends it.
    """

    def __init__(
        self, asked: Callable[[str], None], forced: Callable[[], None] = lambda: None
    ) -> None:
        self._asked = asked
        self._forced = forced
        self.got: signal.Signals | None = None

    def install(self) -> None:
        """Take over the signals on the running loop."""
        loop = asyncio.get_running_loop()
        # PoCL's LLVM takes this one over, and at the first file that grows too big drops ours too.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for number in ENDING:
            if signal.getsignal(number) is signal.SIG_IGN:
                continue  # as nohup leaves it
            loop.add_signal_handler(number, self._handle, number)

    def _handle(self, number: signal.Signals) -> None:
        if self.got is not None:
            self._forced()
            say("ending at once")
            self.reraise()
        self.got = number
        self._asked(number.name)

    def reraise(self) -> None:
        """End this process by the signal it got, if it got one."""
        if self.got is not None:
            end_by(self.got)
