# shellcheck shell=bash
# Other implementations of OpenCL, for scripts/test --all, which sources this after environment.sh.
#
# None becomes a device of ordinary tests and runs: Debian's PoCL and Intel's runtime lie in folders of
# their own inside `.venv`, and Oclgrind is a command that runs another one.

debian="$venv/debian-pocl"
intel="$venv/intel-opencl"

# Run pytest on the device tests on pip's PoCL, compiling for each level below this CPU's own.
test_on_levels() {
  local level
  for level in $("$venv/bin/python" -c '
from kernels.device.target_cpu import LEVELS, own_level
names = list(LEVELS)
print(*names[: names.index(own_level())] if own_level() else "")'); do
    say "the device tests on pip's PoCL for $level"
    POCL_LLVM_CPU_NAME=$level TEST_DEVICES="for $level" "$@" tests/device || return
  done
}

# Unpack Debian's PoCL and what it needs beyond this system, once (70 MB to fetch, 380 MB on disk).
ensure_debian_pocl() (
  local package library packages
  [[ ! -r $debian/vendors/pocl.icd ]] || return 0
  command -v apt-get >/dev/null || return 1
  folder=$(mktemp -d) && cd -- "$folder" || return 1
  trap 'rm -rf "$folder"' EXIT
  mapfile -t packages < <(apt-get install -s --no-install-recommends pocl-opencl-icd 2>/dev/null |
    awk '$1 == "Inst" { print $2 }')
  ((${#packages[@]} > 0)) || return 1
  say "unpacking Debian's PoCL into $debian, once"
  apt-get -qq download "${packages[@]}" >/dev/null 2>&1 || return 1
  rm -rf "$debian"
  for package in *.deb; do
    dpkg -x "$package" "$debian" || return 1
  done
  library=$(find "$debian/usr/lib" -name 'libpocl.so.*' ! -type l | head -n 1)
  [[ -n $library ]] || return 1
  mkdir -p "$debian/vendors" && printf '%s\n' "$library" >"$debian/vendors/pocl.icd"
)

# Run pytest on the device tests on Debian's PoCL alone; pip's is listed beside it.
test_on_debian_pocl() {
  local library
  library=$(<"$debian/vendors/pocl.icd")
  local -x OCL_ICD_VENDORS="$debian/vendors" LD_LIBRARY_PATH="${library%/*}"
  for library in "$debian"/usr/lib/llvm-*/lib; do
    LD_LIBRARY_PATH+=":$library"
  done
  TEST_DEVICES=debian "$@" tests/device
}

# Install Intel's runtime for CPUs (280 MB to fetch, 800 MB on disk), once. Its packages name it to the
# loader by a path of the machine they were built on, so `vendors/` here says where it is.
ensure_intel() {
  local log="$venv/intel-opencl.log"
  [[ ! -r $intel/vendors/intel.icd ]] || return 0
  [[ $HOSTTYPE == x86_64 ]] || return 1
  say "installing Intel's OpenCL runtime in $intel, once"
  rm -rf "$intel"
  # pip's --target leaves out the libraries: they lie in the folder `lib`.
  if ! "$venv/bin/python" -I -m pip install --quiet --disable-pip-version-check --no-input \
    --ignore-installed --prefix "$intel" intel-opencl-rt intel-cmplr-lib-rt >"$log" 2>&1; then
    tail -n 3 "$log" >&2
    rm -rf "$intel"
    return 1
  fi
  mkdir -p "$intel/vendors"
  printf '%s\n' "$intel/lib/libintelocl.so" >"$intel/vendors/intel.icd"
}

# Run a command where Intel's runtime is the only one.
on_intel() {
  OCL_ICD_VENDORS="$intel/vendors" POCL_DEVICES=none "$@"
}

# Run pytest on the device tests where Intel's is the only device, and make sure that it is there.
test_on_intel() {
  # A platform without a device is passed over, and the tests would pass on numpy alone.
  on_intel "$venv/bin/python" -c '
from kernels.device.discovery import devices
assert [info.platform for info in devices()] == ["Intel(R) OpenCL"], devices()' || return
  on_intel "$@" tests/device
}

ensure_oclgrind() {
  command -v oclgrind >/dev/null || {
    command -v apt-get >/dev/null && ((EUID == 0)) && install_packages oclgrind
  }
}

# Run pytest on the device tests under Oclgrind, which simulates a device and reports accesses out of
# bounds and races; tests/device/conftest.py makes a report fail its test. Then once more on the
# products and convolutions, with the tiles for CPUs with AVX-512.
test_under_oclgrind() {
  # pyopencl would take what it once built with other options from its cache.
  local -x PYOPENCL_NO_CACHE=1
  local simulated=(oclgrind --data-races --compute-units 4)
  "${simulated[@]}" "$@" -m 'not heavy' tests/device || return
  "${simulated[@]}" --build-options -D__AVX512F__ "$@" -m 'not heavy' -k 'not GPUs' \
    tests/device/test_device_products.py tests/device/test_device_order.py \
    tests/device/test_device_convolution.py
}
