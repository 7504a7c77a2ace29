import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.device import build_lock, choice, device, discovery
from kernels.device.choice import choose
from kernels.device.discovery import DeviceInfo
from kernels.device.thread_affinity import POCL
from kernels.device.trial import Trial
from kernels.engine import open_engine
from kernels.errors import DeviceError


def info(
    index: int, name: str, kind: str, driver: str = "1.0", platform: str = "A platform"
) -> DeviceInfo:
    return DeviceInfo(index, name, platform, kind, 4, 8 << 30, driver, 128)


CPU, GPU, OTHER = (
    info(0, "Some CPU", "cpu"),
    info(1, "Big GPU", "gpu"),
    info(2, "Card", "accelerator"),
)
GOOD = Trial(True, width=8)
BAD = Trial(False, "error: unknown target CPU 'generic'")


class Machine:
    """Devices as they are found, and what trials find; ``mended`` ones work when tried again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[DeviceInfo] = []
        self.trials: dict[DeviceInfo, Trial] = {}
        self.mended: set[DeviceInfo] = set()
        self.told: list[str] = []
        monkeypatch.setattr(choice, "devices", lambda target: self.found)
        monkeypatch.setattr(choice, "tried", self.tried)
        monkeypatch.setattr(choice, "pip_has_no_cpu_device", lambda: False)

    def tried(self, info: DeviceInfo, tell: object, since: float | None = None) -> Trial:
        return GOOD if since is not None and info in self.mended else self.trials.get(info, GOOD)

    def choose(self, select: str) -> DeviceInfo:
        return choose(select, tell=self.told.append)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def three(machine: Machine) -> Machine:
    machine.found = [CPU, GPU, OTHER]
    return machine


@pytest.mark.parametrize(
    ("select", "chosen"),
    [
        ("auto", GPU),
        ("0", CPU),
        ("1", GPU),
        ("cpu", CPU),
        ("GPU", GPU),
        ("accelerator", OTHER),
        ("big", GPU),
        ("a platform", GPU),
    ],
)
def test_a_device_is_chosen_by_what_a_person_writes(
    three: Machine, select: str, chosen: DeviceInfo
) -> None:
    assert three.choose(select) == chosen
    assert not three.told


@pytest.mark.parametrize("select", ["7", "", "radeon", "-1"])
def test_an_unknown_selection_names_the_choices(three: Machine, select: str) -> None:
    with pytest.raises(DeviceError, match=r"names no device.*0: Some CPU.*1: Big GPU.*numpy"):
        three.choose(select)


def test_a_device_that_fails_is_passed_over_and_the_reason_told(three: Machine) -> None:
    three.trials[GPU] = BAD
    assert three.choose("auto") == CPU
    (line,) = three.told
    assert line == f"device {GPU} is passed over, because it fails: {BAD.reason}"


def test_where_none_works_each_reason_is_named_in_one_line(three: Machine) -> None:
    three.trials = {CPU: BAD, GPU: Trial(False, "it hangs"), OTHER: BAD}
    with pytest.raises(
        DeviceError, match=r"no OpenCL device works: .*GPU.*it hangs.*'generic'.*pip"
    ):
        three.choose("auto")
    with pytest.raises(DeviceError, match=r"works for device.select = '1': .*it hangs") as failure:
        three.choose("1")
    assert "\n" not in str(failure.value)
    assert "generic" not in str(failure.value)


def test_what_failed_before_is_tried_again_before_a_run_is_refused(three: Machine) -> None:
    three.trials = {CPU: BAD, GPU: BAD, OTHER: BAD}
    three.mended = {CPU}
    assert three.choose("auto") == CPU


def test_of_two_cpu_devices_the_compiler_that_knows_the_cpu_wins(machine: Machine) -> None:
    old = info(0, "pthread", "cpu", "3.0-rc2", POCL)
    new = info(1, "pthread", "cpu", "3.1+debian", POCL)
    newest = info(2, "pthread", "cpu", "10.2", POCL)
    foreign = info(3, "CPU", "cpu", "99", "Intel(R) OpenCL")
    machine.found = [foreign, new, old, newest]
    assert machine.choose("auto") == newest
    machine.trials[old] = Trial(True, width=16)
    assert machine.choose("auto") == old
    machine.trials = {newest: BAD, old: BAD}
    assert machine.choose("cpu") == new


@pytest.mark.parametrize(
    ("driver", "numbers"), [("3.0-rc2", (3, 0)), ("10.2.1+x", (10, 2, 1)), ("v7", ()), ("", ())]
)
def test_versions_are_compared_as_numbers(driver: str, numbers: tuple[int, ...]) -> None:
    assert choice.version_of(driver) == numbers


@pytest.mark.parametrize("select", ["0", "gpu", "auto"])
def test_without_a_device_the_error_says_what_to_install(machine: Machine, select: str) -> None:
    with pytest.raises(DeviceError, match=r"no OpenCL device found.*pip install.*apt.*numpy"):
        machine.choose(select)


def test_numpy_is_chosen_by_itself_only_where_pip_has_no_device(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "pip_has_no_cpu_device", lambda: True)
    assert machine.choose("auto").type == "numpy"
    with pytest.raises(DeviceError):
        machine.choose("cpu")
    machine.found, machine.trials = [CPU], {CPU: BAD}
    with pytest.raises(DeviceError, match="no OpenCL device works"):
        machine.choose("auto")


def test_numpy_is_explicit() -> None:
    engine = open_engine("numpy")
    assert engine.info.type == "numpy"
    assert str(engine.info).startswith("numpy ")
    engine.close()


def test_devices_are_described_in_one_short_line() -> None:
    assert str(GPU) == "1: Big GPU (gpu, A platform 1.0, 4 units, 8.0 GiB)"


def test_pyopencl_is_not_imported_before_devices_are_looked_for() -> None:
    code = (
        "import sys; import kernels.device.discovery\n"
        "import kernels.engine; kernels.engine.open_engine('numpy')\n"
        "sys.exit('pyopencl' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_host_without_pyopencl_has_no_devices() -> None:
    code = (
        "import sys; sys.modules['pyopencl'] = None\n"
        "from kernels.device.discovery import devices\n"
        "from kernels.engine import open_engine\n"
        "from kernels.measure import measure\n"
        "from kernels.rules import RuleRunner, RuleSpec\n"
        "RuleRunner(open_engine('numpy'), RuleSpec('adam'))\n"
        "sys.exit(bool(devices()))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_the_first_builder_leaves_a_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_lock, "cache_folder", lambda: tmp_path)
    with build_lock.building(CPU, ["text"]):
        (lock,) = tmp_path.glob("*.lock")
        with lock.open("w") as held, pytest.raises(BlockingIOError):
            fcntl.flock(held.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert len(list(tmp_path.glob("*.built"))) == 1
    with build_lock.building(CPU, ["text"]), lock.open("w") as held:
        fcntl.flock(held.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_failed_build_leaves_no_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_lock, "cache_folder", lambda: tmp_path)
    with pytest.raises(ValueError, match="no"), build_lock.building(CPU, ["text"]):
        raise ValueError("no")
    assert list(tmp_path.glob("*.built")) == []


def test_a_builder_that_hangs_is_not_waited_for_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_lock, "cache_folder", lambda: tmp_path)
    with build_lock.building(CPU, ["text"]):
        monkeypatch.setattr(build_lock, "BUILD_DEADLINE", 0.0)
        with (
            pytest.raises(DeviceError, match="another process"),
            build_lock.building(CPU, ["text"]),
        ):
            pytest.fail("built beside the holder of the lock")


def test_a_missing_linker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [entry for entry in discovery.devices() if entry.platform == device.POCL]
    if not found:
        pytest.skip("PoCL is not installed here")
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    with pytest.raises(DeviceError, match="apt install binutils"):
        device.OpenDevice(found[0])
