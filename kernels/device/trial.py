"""Try a device in a child process: a small kernel is built, run and checked there.

A driver may refuse every program, crash, hang or end the whole process, and its compiler's own words
say why. What a trial found is kept on disk for a device, its driver and what it compiles for, so it
costs nothing the next time.
"""

import contextlib
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kernels.device import target_cpu
from kernels.device.build_lock import exclusive, key_of
from kernels.device.cache import cache_folder
from kernels.device.discovery import DeviceInfo, found_devices
from kernels.errors import DeviceError

if TYPE_CHECKING:
    from kernels.device.device import OpenDevice

WITHIN = 40.0
"""Seconds for one device: one or two, and more where a cold disk or a busy machine holds it up."""
KEPT_FAILURE = 600.0
"""Seconds for which a failure is believed while another device works."""
LONG = 2.0
"""Seconds after which a person is told what goes on."""
SIZE = 64
NO_EXECUTION = (
    " (nothing may be executed where kernels are kept, as on a disk mounted noexec: set XDG_CACHE_HOME "
    "to another folder)"
)
WORDS = 4
"""Lines of a driver's output that are kept as the reason of a failure."""
LONGEST_LINE = 300

Tell = Callable[[str], None]
"""Tells a person what takes long."""


@dataclass(frozen=True)
class Trial:
    """What a trial found; ``reason`` says in one line why the device does not work."""

    works: bool
    reason: str = ""
    width: int = 1
    """Floats of the widest instructions that the device's compiler makes; 1 for other than CPUs."""
    when: float = 0.0
    """Seconds since 1970."""


def tried(info: DeviceInfo, tell: Tell, since: float | None = None) -> Trial:
    """Return what is known of a device; try it first if nothing is.

    A failure counts as known if it is not older than ``since`` (seconds since 1970), by default than
    KEPT_FAILURE. Devices of one model are told apart, and so are the hosts that share a home.
    """
    since = time.time() - KEPT_FAILURE if since is None else since
    key = key_of(info, "trial", str(info.index), socket.gethostname())
    path = cache_folder() / f"{key}.trial"
    with exclusive(path.with_suffix(".lock"), f"tries device {info}"):
        kept = _read(path)
        if kept is not None and (kept.works or since <= kept.when <= time.time()):
            return kept
        found = _run(info, tell)
        part = path.with_suffix(".part")
        with contextlib.suppress(OSError):  # it is then tried again
            part.write_text(json.dumps(asdict(found)), encoding="utf-8")
            part.replace(path)
        return found


def _read(path: Path) -> Trial | None:
    try:
        kept = Trial(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return kept if type(kept.works) is bool and type(kept.width) is int else None


def _run(info: DeviceInfo, tell: Tell) -> Trial:
    """Run the child, end it at its deadline, and say what it found or how it ended."""
    started = target_cpu.start()
    target = info.target if started.foreign and info.target else started.name
    arguments = (str(info.index), info.name, target)
    began = time.monotonic()
    # The child finds this very package, and its end of the lifeline closes however this process ends.
    home = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    lifeline, held = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "kernels.device.trial", *arguments],
            stdin=lifeline,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
    except BaseException:
        os.close(held)
        raise
    finally:
        os.close(lifeline)
    try:
        try:
            out, errors = process.communicate(timeout=LONG)
        except subprocess.TimeoutExpired:
            tell(f"trying device {info}: {WITHIN:.0f} s at most, once")
            out, errors = process.communicate(timeout=WITHIN - LONG)
    except subprocess.TimeoutExpired:
        return Trial(False, f"a small kernel did not end within {WITHIN:.0f} s", when=time.time())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the compilers that it started
        os.close(held)
        process.communicate()
    if time.monotonic() - began > LONG:
        tell(f"tried it in {time.monotonic() - began:.1f} s")
    with contextlib.suppress(ValueError, TypeError):
        told = json.loads(out.decode(errors="replace").strip().rpartition("\n")[2])
        return Trial(**told, when=time.time())
    text = errors.decode(errors="replace")
    words = [shown(line) for line in text.splitlines() if line.strip()]
    said = f": {' | '.join(words[-WORDS:])}" if words else ""
    hint = NO_EXECUTION if "failed to map segment" in text else ""
    return Trial(False, f"{_ending(process.returncode)}{said}{hint}", when=time.time())


def shown(line: str) -> str:
    """Return a driver's line as it can be shown: no longer than a few words, and plain."""
    plain = "".join(one if one.isprintable() else " " for one in line.strip())
    return plain if len(plain) <= LONGEST_LINE else f"{plain[:LONGEST_LINE]}…"


def _ending(status: int) -> str:
    if status >= 0:
        return f"its driver ended the process with exit code {status}"
    try:
        return f"its driver ended the process by {signal.Signals(-status).name}"
    except ValueError:
        return f"its driver ended the process by signal {-status}"


def compute(info: DeviceInfo) -> int:
    """Build, run and check a small kernel here; return the width of `Trial`.

    Raises:
        DeviceError: the device fails, or computes wrongly.
    """
    # Not needed where no device is tried: pyopencl is imported with it.
    from kernels.device.device import OpenDevice, source

    device = OpenDevice(info)
    program = device.build(source("common.cl", "trial.cl"), {})
    kernel = device.kernel(program, "trial", (None, None, np.int32))
    x = np.linspace(-3, 3, SIZE + 16, dtype=np.float32)
    y = np.zeros_like(x)
    given, result = device.buffer(x.nbytes), device.buffer(y.nbytes)
    device.copy_in(given, 0, x)
    for work in (0.0, math.inf):  # on each of its queues
        kernel((SIZE,), (8,), given, result, SIZE, work=work)
        device.finish()
        _check(device, x, y, result)
    return device.width


def _check(device: "OpenDevice", x: np.ndarray, y: np.ndarray, result: Any) -> None:
    """Compare what was computed with numpy's results, and clear it."""
    device.copy_out(result, 0, y)
    device.finish()
    pairs = x.reshape(-1, 2)[:, ::-1].reshape(-1)
    wanted = np.tanh(x) * 2 + np.exp(pairs)
    if not np.allclose(y, wanted, rtol=1e-4, atol=1e-4):
        worst = int(np.abs(np.nan_to_num(y, nan=np.inf) - wanted).argmax())
        raise DeviceError(
            f"it computes wrongly: {y[worst]:.6g} instead of {wanted[worst]:.6g}: update its driver"
        )
    device.copy_in(result, 0, np.zeros_like(y))
    device.finish()


def _leave_with_parent() -> None:
    """Wait for the end of stdin, which the parent holds; end this process and its compilers."""
    select.select([0], [], [], WITHIN + 2)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Try the device of this index and name, and tell what is found as a line of JSON."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # drivers print to stdout as they like
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(WITHIN) + 5)  # even where a driver never gives control back
    index, name, target = sys.argv[1:]
    told: dict[str, Any] = {"works": False}
    try:
        found = next((one for one, _ in found_devices(target) if str(one.index) == index), None)
        if found is None or found.name != name:
            told["reason"] = "it is gone: another process does not find it"
        else:
            told["width"] = compute(found)
            told["works"] = True
    except DeviceError as error:
        told["reason"] = error.reason or str(error)
    print(json.dumps(told), file=channel, flush=True)


if __name__ == "__main__":
    main()
