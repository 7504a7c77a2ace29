"""Open a device with pyopencl: build programs, launch kernels, copy."""

import shutil
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np
import pyopencl as cl

from kernels.activations import ACTIVATIONS, LEAK
from kernels.device.build_lock import building
from kernels.device.cache import cache_folder
from kernels.device.discovery import DeviceInfo, found_devices, inline_device, is_inline
from kernels.device.failures import Translating, check_ended_well, translated
from kernels.device.kernel import Kernel, Launch, Replay
from kernels.device.memory import Buffer, DeviceMemory
from kernels.device.target_cpu import cache_name, own_level
from kernels.device.thread_affinity import POCL
from kernels.device.trial import Tell
from kernels.errors import DeviceError, KernelError

WAKING = 15e3
"""Nanoseconds that each kernel of a step takes longer on PoCL's threads, which sleep in between."""
LONGEST_INLINE = 3e5
"""Most nanoseconds of work that is done in the calling thread, which other Python threads wait for."""
COPYING = 0.1
"""Nanoseconds to copy a byte."""

Located = tuple[Any, int]
"""A buffer and an offset in elements."""


def source(*names: str) -> str:
    """Return the text of kernel sources that ship with the package, one after the other."""
    folder = files("kernels") / "cl"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def define(values: Mapping[str, int | str]) -> str:
    """Return one `#define` line for each value, replacing earlier ones."""
    return "".join(f"#undef {name}\n#define {name} {value}\n" for name, value in values.items())


class OpenDevice:
    """A device in use: its context, in-order queues, and the host memory its copies still need.

    Of its queues one is in use at a time, so that all is done in order. ``queue`` is the device's own.
    ``inline`` is PoCL's, where it has one, that does at once and in the calling thread what it is
    given: to wake threads takes longer than a small step. It belongs to one thread at a time.
    """

    def __init__(
        self, info: DeviceInfo, memory: float | None = None, tell: Tell = lambda _: None
    ) -> None:
        """Open a device.

        Args:
            info: which; the engine of another type is had by saying another type here.
            memory: what its buffers may take: bytes, or up to 1 a share of what it has.
            tell: is told of what takes long.

        Raises:
            DeviceError: it is gone, or cannot be opened.
        """
        self.info = info
        self.tell = tell
        self._told = False
        self.lanes = 16 if info.type == "cpu" else 1
        self._copies: list[tuple[Any, Any]] = []
        self._retired: list[np.ndarray] = []
        self.last: Any = None
        """The event of the kernel that was enqueued last."""
        self.recorded: list[Launch] | None = None
        """Takes what kernels would be enqueued, while a recording goes on."""
        match = [
            device
            for found, device in found_devices()
            if (found.index, found.name, found.driver) == (info.index, info.name, info.driver)
        ]
        if not match:
            raise DeviceError(f"device {info} is gone: look at what `devices()` finds now")
        if info.type == "cpu" and info.platform == POCL and shutil.which("ld") is None:
            # PoCL ends the whole process when it cannot link, so this must be known before.
            raise DeviceError(
                f"device {info} needs the linker `ld` to build kernels: "
                "install binutils (apt install binutils)"
            )
        with self.translating("open the device"):
            self.cl_device, inline = match[0], inline_device(match[0])
            self.context = cl.Context([self.cl_device, *([] if inline is None else [inline])])
            self.queue = cl.CommandQueue(self.context, self.cl_device)
            self.inline: Any = None
            if inline is not None:
                self.inline = cl.CommandQueue(self.context, inline)
            self.memory = DeviceMemory(info, self.context, self.cl_device, memory)
        self._gated = info.platform == POCL and info.type == "cpu" and not is_inline(match[0])
        self._here = False

    @property
    def wide(self) -> bool:
        """Whether the device's compiler makes instructions of 16 floats (AVX-512)."""
        return self.width == 16

    @cached_property
    def width(self) -> int:
        """Floats of the widest instructions that the device's compiler makes; 1 for other than CPUs."""
        if self.info.type != "cpu":
            return 1
        return self.info.width or self._vector_width()

    def translating(self, doing: str) -> Translating:
        """Return a context in which pyopencl's errors become DeviceError."""
        return Translating(self.info, doing)

    def failure(self, doing: str, error: Any) -> DeviceError:
        """Return the error of ours for one of pyopencl's."""
        return translated(self.info, doing, error)

    def building(self, texts: Sequence[str]) -> AbstractContextManager[None]:
        """Return a context in which kernels of these texts are built, by one process at a time."""
        return building(self.info, texts, self._first)

    def _first(self) -> None:
        if not self._told:
            self._told = True
            self.tell(f"building kernels for device {self.info}: some seconds, once")

    def build(self, text: str, values: Mapping[str, int | str]) -> Any:
        """Build a program from `text` under the shared definitions and `values`."""
        shared = {f"ACTIVATION_{entry.name.upper()}": entry.code for entry in ACTIVATIONS.values()}
        # The name of what it is built for is a part of the text, and so of any cache's key.
        title = f"/* {cache_name(self.info.target, own_level())} */\n"
        whole = title + define({"LANES": self.lanes, "LEAK": f"{LEAK}f", **shared, **values}) + text
        with self.translating("build its kernels"), warnings.catch_warnings():
            # Compilers write remarks to the log; a real fault is an error. PoCL 3.0 loses a
            # program's kernels over clang's warnings, which it gives for every float16 passed to
            # a function where the CPU has no AVX-512.
            warnings.simplefilter("ignore", cl.CompilerWarning)
            try:
                return self._build(whole)
            except cl.RuntimeError as error:
                # LLVM removes its temporary files where the process gets a signal to end, though the
                # process may end later, in good order, and needs the kernels until then.
                if "No such file" not in str(error):
                    raise
                return self._build(whole)

    def _build(self, text: str) -> Any:
        """Build a program; where the driver keeps none on disk, pyopencl does so in our folder."""
        kept = str(cache_folder() / "pyopencl")
        return cl.Program(self.context, text).build(["-w"], cache_dir=kept)

    def _vector_width(self) -> int:
        """Ask the device's compiler what it compiles for, which may be less than the CPU has.

        As found, PoCL 3.0 (LLVM 14) takes an AMD CPU with AVX-512 for one without, though its
        CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT says 16. The kernel is never run.
        """
        program = self.build(source("width.cl"), {})
        with self.translating("ask for its vector width"):
            kernel = cl.Kernel(program, "width")
            info = cl.kernel_work_group_info.COMPILE_WORK_GROUP_SIZE
            group: Any = kernel.get_work_group_info(info, self.cl_device)
        return int(group[0])

    def kernel(self, program: Any, name: str, types: Sequence[Any]) -> Kernel:
        """Return a kernel of a program; `types` has numpy's type of each scalar, None else."""
        return Kernel(self, program, name, types)

    @contextmanager
    def recording(self) -> Iterator["Replay"]:
        """Take down what kernels are enqueued in the context; the result enqueues them.

        Raises:
            KernelError: something else than a kernel is asked for.
        """
        if self.recorded is not None:
            raise KernelError("one recording at a time")
        replay = Replay(self, [])
        self.recorded = replay.launches
        try:
            yield replay
        finally:
            self.recorded = None

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Enqueue what the context asks for, though a recording may go on around it."""
        around, self.recorded = self.recorded, None
        try:
            yield
        finally:
            self.recorded = around

    def only_now(self) -> None:
        """Refuse what cannot be taken down, while a recording goes on."""
        if self.recorded is not None:
            raise KernelError(
                "copies, waits and rules cannot be recorded: do them around the replay"
            )

    def buffer(self, nbytes: int) -> Any:
        """Return a new buffer in the device's memory."""
        with self.translating(f"allocate {nbytes} bytes"):
            return self.memory.buffer(nbytes)

    def shared_buffer(self, nbytes: int) -> tuple[Any, np.ndarray]:
        """Return a new buffer in the host's memory, and its bytes."""
        with self.translating(f"allocate {nbytes} bytes"):
            buffer, host = self.memory.shared(nbytes)
        self._outlive(buffer, host)
        return buffer, host

    def _outlive(self, buffer: Any, host: np.ndarray) -> None:
        """Keep host memory until what uses it has finished, though its buffer is dropped before.

        OpenCL does so with memory of its own only.
        """
        weakref.finalize(buffer, self._retire, host).atexit = False

    def _retire(self, host: np.ndarray) -> None:
        if not self.idle:
            self._retired.append(host)

    @property
    def idle(self) -> bool:
        """Whether nothing was enqueued since everything was finished."""
        return self.last is None and not self._copies

    @contextmanager
    def on_each_queue(self) -> Iterator[Iterator[None]]:
        """Give an iterator whose rounds enqueue on one queue after the other, and finish there.

        PoCL compiles a kernel for each of its devices when it is first launched there.
        """
        inline = self.inline

        def rounds() -> Iterator[None]:
            for queue in {id(inline): inline, id(None): None}.values():
                self.inline = queue
                yield
                self.finish()

        try:
            yield rounds()
        finally:
            self.inline = inline

    def is_small(self, work: float, kernels: int = 1) -> bool:
        """Say if kernels are done sooner in the calling thread than by threads that have to wake.

        ``work`` is about how many nanoseconds one core needs for all of them.
        """
        saved = work * (1 - 1 / self.info.compute_units)
        return self.inline is not None and work <= LONGEST_INLINE and saved <= kernels * WAKING

    def queue_for(self, small: bool) -> Any:
        """Return the queue for small work or other; what is under way decides for all small work."""
        if small and self.inline is not None and (self._here or self.idle):
            self._here = True
            return self.inline
        if self._here:
            self._here = False
            self.inline.finish()
            if self.last is not None:
                check_ended_well(self.info, "run a kernel", [self.last])
        return self.queue

    def gate(self, queue: Any) -> Any:
        """Return an event that an idle device's first kernel is to wait for; None to start at once.

        PoCL wakes its threads for every kernel, on the cores that the host needs to enqueue the next
        one. A step of small kernels is over a fifth sooner where they begin when all are there.
        """
        if not self._gated or queue is self.inline or not self.idle:
            return None
        return cl.UserEvent(self.context)

    def host_buffer(self, host: np.ndarray, *, written: bool = True, kept: bool = False) -> Any:
        """Return a buffer that uses the memory of a host array in place.

        With ``kept`` the caller keeps it until all that uses it has finished.
        """
        access = cl.mem_flags.READ_WRITE if written else cl.mem_flags.READ_ONLY
        flags = access | cl.mem_flags.USE_HOST_PTR
        with self.translating("use host memory"):
            buffer = Buffer(self.context, flags, hostbuf=host)
        if not kept:
            self._outlive(buffer, host)
        return buffer

    def copy_in(self, buffer: Any, offset: int, host: np.ndarray) -> None:
        """Enqueue a copy from `host` to byte `offset` of a buffer."""
        self.only_now()
        with self.translating("copy to the device"):
            # The event is kept because pyopencl waits for the copy where the event is dropped.
            queue = self.queue_for(self.is_small(COPYING * host.nbytes))
            event = cl.enqueue_copy(queue, buffer, host, dst_offset=offset, is_blocking=False)
        self._copies.append((event, None))

    def copy_out(self, buffer: Any, offset: int, host: np.ndarray) -> None:
        """Enqueue a copy from byte `offset` of a buffer to `host`."""
        self.only_now()
        with self.translating("copy from the device"):
            queue = self.queue_for(self.is_small(COPYING * host.nbytes))
            event = cl.enqueue_copy(queue, host, buffer, src_offset=offset, is_blocking=False)
        self._copies.append((event, None))

    def map_for_host(self, buffer: Any, size: int, *, written: bool = True) -> Any:
        """Enqueue what makes a host buffer's float32 valid for the host after `finish`.

        Return what `unmap` takes to give them back to the kernels; with ``written`` the host may
        write them until then. PoCL's CPU device computes in the host's memory itself, so there it
        does nothing: a map costs 15 µs.
        """
        self.only_now()
        if self.info.platform == POCL:
            return None
        flags: Any = cl.map_flags.READ | cl.map_flags.WRITE if written else cl.map_flags.READ
        of = np.dtype(np.float32)
        with self.translating("map host memory"):
            mapped, event = cl.enqueue_map_buffer(
                self.queue, buffer, flags, 0, (size,), of, is_blocking=False
            )
        self._copies.append((event, mapped))
        return mapped

    def unmap(self, mapped: Any) -> None:
        """Enqueue what gives a host buffer back to the kernels; None does nothing."""
        self.only_now()
        if mapped is not None:
            with self.translating("unmap host memory"):
                mapped.base.release(self.queue)

    def finish(self) -> None:
        """Wait for everything enqueued.

        Raises:
            DeviceError: the device failed, or the kernel enqueued last or a copy did. What fails
                takes along what is enqueued behind it, or the context.
        """
        self.only_now()
        events = [event for event, _ in self._copies]
        if self.last is not None:
            events.append(self.last)
        try:
            with self.translating("finish its work"):
                (self.inline if self._here else self.queue).finish()
                check_ended_well(self.info, "finish its work", events)
        finally:
            self._copies.clear()
            self._retired.clear()
            self.last = None
            self._here = False

    def close(self) -> None:
        """Finish and drop the queue and the context."""
        self.finish()
        del self.queue, self.inline, self.context, self.memory
