import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.device import target_cpu
from kernels.device.target_cpu import (
    AS_FOUND,
    LEVELS,
    cache_name,
    check_name,
    environment,
    level_of,
)
from kernels.errors import DeviceError

V2, V3, V4 = LEVELS.values()


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (set(), None),
        (V2 - {"sse4_2"}, None),
        (V2, "x86-64-v2"),
        (V2 | V3 - {"movbe"}, "x86-64-v2"),
        (V2 | V3, "x86-64-v3"),
        (V2 | V4, "x86-64-v2"),
        (V2 | V3 | V4 - {"avx512vl"}, "x86-64-v3"),
        (V2 | V3 | V4 | {"avx512_fp16"}, "x86-64-v4"),
    ],
)
def test_the_level_is_the_highest_whose_instructions_are_all_there(
    flags: set[str], level: str | None
) -> None:
    assert level_of(flags) == level


@pytest.mark.parametrize(
    ("text", "level"),
    [
        (f"flags\t\t: {' '.join(V2 | V3)}\nflags : {' '.join(V2 | V3 | V4)}\n", "x86-64-v3"),
        ("Features : fp asimd\n", None),
        ("", None),
    ],
)
def test_a_machine_has_what_all_its_cpus_have(
    text: str, level: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    target_cpu.own_level.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    try:
        assert target_cpu.own_level() == level
    finally:
        target_cpu.own_level.cache_clear()


def test_what_is_built_for_two_targets_or_on_two_levels_is_kept_apart() -> None:
    targets = ("x86-64-v3", "x86-64-v4", AS_FOUND, "znver4")
    names = {cache_name(target, level) for target in targets for level in (*LEVELS, None)}
    assert len(names) == len(targets) * (len(LEVELS) + 1) - 2  # a level's own name says both
    assert all(" " not in name and "/" not in name for name in names)


def test_the_cache_folder_carries_the_name_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCL_CACHE_DIR", "/somewhere")
    folder = environment("x86-64-v3", "x86-64-v4")["POCL_CACHE_DIR"]
    assert folder == "/somewhere/x86-64-v3-on-x86-64-v4"
    monkeypatch.setenv("POCL_CACHE_DIR", folder)  # as a child sees it
    assert environment("x86-64-v3", "x86-64-v4")["POCL_CACHE_DIR"] == folder


def test_as_found_tells_pocl_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCL_DEVICES", "pthread")
    assert set(environment(AS_FOUND, None)) == {"POCL_CACHE_DIR"}
    assert environment("x86-64-v4", None)["POCL_LLVM_CPU_NAME"] == "x86-64-v4"


def test_what_a_person_set_for_pocl_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POCL_DEVICES", "POCL_KERNELLIB_NAME"):
        monkeypatch.delenv(name, raising=False)
        assert name in environment("x86-64-v3", None)
        monkeypatch.setenv(name, "mine")
        assert name not in environment("x86-64-v3", None)


@pytest.mark.parametrize("name", ["", " ", "a b", "-x", "x/y", "näm", "x\ny"])
def test_what_can_be_no_name_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match=r"device.target_cpu = .* is no CPU's name.*as found"):
        check_name(name)


def in_a_process(code: str, **variables: str) -> str:
    """Run code in a process of its own, for PoCL starts once in each; return what it prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POCL_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **variables},
        timeout=60,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_a_process_has_one_target() -> None:
    code = (
        "from kernels.device import target_cpu\n"
        "from kernels.errors import DeviceError\n"
        "print(target_cpu.start('x86-64-v2').name, target_cpu.start().name)\n"
        "try: target_cpu.start('x86-64-v3')\n"
        "except DeviceError as error: print(error)"
    )
    one, two = in_a_process(code).splitlines()
    assert one == "x86-64-v2 x86-64-v2"
    assert "comes too late" in two
    assert "x86-64-v2" in two


def test_the_variable_of_pocl_counts_unless_the_configuration_says_more() -> None:
    code = (
        "import os\n"
        "from kernels.device import target_cpu\n"
        "print(target_cpu.start({}).name, os.environ.get('POCL_LLVM_CPU_NAME'))"
    )
    assert in_a_process(code.format("")) == f"{target_cpu.own_level() or AS_FOUND} " + str(
        target_cpu.own_level()
    )
    assert in_a_process(code.format(""), POCL_LLVM_CPU_NAME="haswell") == "haswell haswell"
    told = in_a_process(code.format("'as found'"), POCL_LLVM_CPU_NAME="haswell")
    assert told == "as found None"
