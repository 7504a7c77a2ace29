# shellcheck shell=bash
# Other implementations of OpenCL, for scripts/test --all, which sources this after environment.sh.
#
# Neither becomes a device of ordinary tests and runs: Intel's runtime lies in a folder of its own
# inside `.venv`, and Oclgrind is a command that runs another one.

intel="$venv/intel-opencl"

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
# products, with the tiles for CPUs with AVX-512.
test_under_oclgrind() {
  # pyopencl would take what it once built with other options from its cache.
  local -x PYOPENCL_NO_CACHE=1
  local simulated=(oclgrind --data-races --compute-units 4)
  "${simulated[@]}" "$@" -m 'not heavy' tests/device || return
  "${simulated[@]}" --build-options -D__AVX512F__ "$@" -m 'not heavy' -k 'not GPUs' \
    tests/device/test_device_products.py tests/device/test_device_order.py
}
