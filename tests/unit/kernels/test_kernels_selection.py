import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.device import build_lock, cache, device, discovery
from kernels.device.discovery import DeviceInfo, choose
from kernels.engine import open_engine
from kernels.errors import DeviceError


def info(index: int, name: str, kind: str) -> DeviceInfo:
    return DeviceInfo(index, name, "A platform", kind, 4, 8 << 30, "1.0", 128)


CPU, GPU, OTHER = (
    info(0, "Some CPU", "cpu"),
    info(1, "Big GPU", "gpu"),
    info(2, "Card", "accelerator"),
)


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "devices", lambda: [CPU, GPU, OTHER])


@pytest.fixture
def none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "devices", list)


@pytest.mark.usefixtures("three")
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
        ("a platform", CPU),
    ],
)
def test_a_device_is_chosen_by_what_a_person_writes(select: str, chosen: DeviceInfo) -> None:
    assert choose(select) == chosen


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("select", ["7", "", "radeon", "-1"])
def test_an_unknown_selection_names_the_choices(select: str) -> None:
    with pytest.raises(DeviceError, match=r"names no device.*0: Some CPU.*1: Big GPU.*numpy"):
        choose(select)


@pytest.mark.usefixtures("none")
@pytest.mark.parametrize("select", ["0", "gpu", "auto"])
def test_without_a_device_the_error_says_what_to_install(
    select: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "pip_has_no_cpu_device", lambda: False)
    with pytest.raises(DeviceError, match=r"no OpenCL device found.*pip install.*numpy"):
        choose(select)


@pytest.mark.usefixtures("none")
def test_numpy_is_chosen_by_itself_only_where_pip_has_no_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery, "pip_has_no_cpu_device", lambda: True)
    assert choose("auto").type == "numpy"
    with pytest.raises(DeviceError):
        choose("cpu")


def test_numpy_is_explicit() -> None:
    engine = open_engine("numpy")
    assert engine.info.type == "numpy"
    assert str(engine.info).startswith("numpy ")
    engine.close()


def test_devices_are_described_in_one_short_line() -> None:
    assert str(GPU) == "1: Big GPU (gpu, A platform, 4 units, 8.0 GiB)"


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


def test_without_a_cache_the_temporary_folder_is_used_if_nobody_else_can_write_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = cache.cache_folder()
    assert (folder.parent, folder.stat().st_mode & 0o777) == (tmp_path, 0o700)
    folder.chmod(0o777)
    assert cache.cache_folder().stat().st_mode & 0o777 == 0o700
    folder.rename(tmp_path / "elsewhere")
    for target in ("elsewhere", "file", "nothing"):
        folder.symlink_to(tmp_path / target)
        with pytest.raises(DeviceError, match="not a folder of your own"):
            cache.cache_folder()
        folder.unlink()
    folder.touch()
    with pytest.raises(DeviceError, match="set XDG_CACHE_HOME"):
        cache.cache_folder()
