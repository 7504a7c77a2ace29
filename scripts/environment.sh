# shellcheck shell=bash
# The checkout's virtual environment, made once. Sourced by the scripts beside this file.
#
# A caller sources it, which sets `root` (the checkout), and calls `answer_help "$@"` and then
# `ensure_environment EXTRA` with EXTRA either `run` or `test`. Everything printed goes to stderr,
# because stdout is for results (and for the help that was asked for). Exit code 3 means that the
# machine lacks something; the message says how to get it.

root=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")
venv="$root/.venv"

# What an outer environment could set to send Python or pip somewhere else than to our own `.venv`.
unset PYTHONHOME PYTHONPATH PYTHONUSERBASE VIRTUAL_ENV CDPATH
unset PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_REQUIRE_VIRTUALENV

say() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# Print where this user's caches are, or nothing for a user without a home: see kernels/device/cache.py.
user_cache() {
  local home=~ # the system's users tell where HOME does not
  if [[ ${XDG_CACHE_HOME:-} == /* ]]; then
    printf '%s\n' "$XDG_CACHE_HOME"
  elif [[ $home == /*[!/]* && -d $home ]]; then
    printf '%s\n' "$home/.cache"
  fi
}

# pip would make a folder called ~ in the current one.
[[ -n $(user_cache) ]] || export PIP_NO_CACHE_DIR=1

not_ready() {
  say "$@"
  exit 3
}

# Where the first argument asks for help, print the comment at the head of the calling script and end.
answer_help() {
  [[ ${1:-} == --help || ${1:-} == -h ]] || return 0
  awk 'NR == 1 { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' "$0"
  exit 0
}

# Print the real path of each Python that is new enough, best first. A version manager's shim that
# fails is passed over, and an active foreign environment leads to the interpreter it was made from.
list_pythons() {
  local name path
  for name in python3 python3.13 python3.12 python3.11 python3.14; do
    while IFS= read -r path; do
      "$path" -I -c '
import sys
if sys.version_info < (3, 11):
    sys.exit(1)
print(sys._base_executable or sys.executable)' 2>/dev/null || true
    done < <(type -ap "$name")
  done | awk '!seen[$0]++'
}

# Succeed if the Python at $1 can make a virtual environment with pip in it.
can_make_environments() {
  "$1" -I -c 'import ensurepip, ssl, venv' 2>/dev/null
}

version_of() {
  "$1" -I -S -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Set `python` to an interpreter, or to nothing and `python_package` to what would bring one.
find_python() {
  local candidate
  python=''
  python_package=''
  while IFS= read -r candidate; do
    if can_make_environments "$candidate"; then
      python=$candidate
      return
    fi
    # Debian and Ubuntu keep ensurepip in a package of its own for each version.
    if [[ -z $python_package && $candidate =~ ^(/usr)?/bin/ ]]; then
      python_package="python$(version_of "$candidate")-venv"
    fi
  done < <(list_pythons)
  [[ -n $python_package ]] || python_package=python3-venv
}

# Install the system packages named, or exit 3 with the one line that does it.
install_packages() {
  local log
  command -v apt-get >/dev/null ||
    not_ready "needs $*: install what this system's package manager calls them"
  ((EUID == 0)) ||
    not_ready "this system lacks $*; to get it: sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
  say "installing $* with apt-get"
  log=$(mktemp)
  if ! apt_get update >"$log" 2>&1 ||
    ! apt_get install -y --no-install-recommends "$@" >>"$log" 2>&1; then
    tail -n 5 "$log" >&2
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
}

apt_get() {
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" 9>&-
}

# Print what an installation for extra $1 was made from; when it changes, we install again. Of
# pyproject.toml only the tables that say what is installed count, so that changing a lint rule does
# not ask for the network. The checkout's place counts because an environment cannot be moved.
fingerprint() {
  local tables
  tables=$(awk '/^\[/ { keep = /^\[(build-system|project|tool\.hatch)/ } keep' "$root/pyproject.toml" |
    sha256sum)
  printf '%s\n' "extra $1" "tables ${tables%% *}" "python $(version_of "$venv/bin/python")" "root $root"
}

is_current() {
  local stamp="$venv/.installed-$1"
  [[ -r $stamp && -x $venv/bin/python ]] && [[ $(<"$stamp") == "$(fingerprint "$1")" ]]
}

# Succeed if `.venv` is a whole environment of this place; an interrupted installation is not.
is_usable() {
  [[ ! -e $venv/.installing ]] && "$venv/bin/python" -I -c '
import os, sys
import pip
sys.exit(not os.path.samefile(sys.prefix, sys.argv[1]))' "$venv" 2>/dev/null &&
    { [[ ! -e $venv/.made-for ]] || [[ $(<"$venv/.made-for") == "$root" ]]; }
}

make_environment() {
  find_python
  [[ -n $python ]] || not_ready "found no Python 3.11 or newer that can make environments"
  rm -rf "$venv"
  if ! "$python" -I -m venv "$venv" >&2; then
    rm -rf "$venv"
    not_ready "$python could not make $venv"
  fi
  printf '%s\n' "$root" >"$venv/.made-for"
}

pip_install() {
  local log="$venv/install.log" status=0 target=$root
  [[ $1 == run ]] || target="${root}[$1]"
  rm -f "$venv"/.installed-*
  touch "$venv/.installing"
  "$venv/bin/python" -I -m pip install --quiet --disable-pip-version-check --no-input \
    --editable "$target" >"$log" 2>&1 || status=$?
  # Only an installation that was cut off leaves this mark: pip undoes one that it saw fail.
  rm -f "$venv/.installing"
  if ((status != 0)); then
    tail -n 15 "$log" >&2
    not_ready "pip could not install the package (all of its output is in $log)"
  fi
}

# Print the packages that PoCL, our OpenCL device where there is no other, needs to link a kernel:
# `ld`, and the libraries that its built-in clang names to it. pip brings PoCL for x86-64 alone.
missing_for_linking() {
  local version
  [[ $HOSTTYPE == x86_64 ]] || return 0
  command -v ld >/dev/null || echo binutils
  compgen -G '/usr/lib*/libc.so' >/dev/null || compgen -G '/usr/lib/*/libc.so' >/dev/null ||
    echo libc6-dev
  if ! compgen -G '/usr/lib/gcc/*/*/libgcc.a' >/dev/null; then
    # The development package has the version of the library that every system has.
    version=$(dpkg-query --show --showformat='${Version}' libgcc-s1 2>/dev/null) || version=''
    echo "libgcc${version:+-${version%%[!0-9]*}}-dev"
  fi
}

# Install what the system lacks, or say what does; $1 tells whether a Python is needed too.
ensure_system() {
  local missing=()
  mapfile -t missing < <(missing_for_linking)
  if [[ $1 == python ]]; then
    find_python
    [[ -n $python ]] || missing+=("$python_package")
  fi
  ((${#missing[@]} == 0)) || install_packages "${missing[@]}" ||
    not_ready "apt-get could not install ${missing[*]}"
}

# Have Java and ZooKeeper's jars, installed if we are root; else unpacked into the user's cache, or the
# environment without one, which needs Java alone. Fails where there is no way.
ensure_zookeeper() {
  local cache jars=usr/share/java/zookeeper.jar
  cache=$(user_cache)
  cache="${cache:-$venv/cache}/paramserver/zookeeper"
  if command -v java >/dev/null && [[ -r /$jars || -r $cache/$jars ]]; then
    return
  fi
  command -v apt-get >/dev/null || return 1
  if ((EUID == 0)); then
    install_packages zookeeper
    return
  fi
  command -v java >/dev/null || return 1
  unpack_zookeeper "$cache"
}

unpack_zookeeper() (
  local package folder
  folder=$(mktemp -d) && cd -- "$folder" || return 1
  trap 'rm -rf "$folder"' EXIT
  say "unpacking ZooKeeper into $1"
  apt-get -qq download libzookeeper-java libslf4j-java libdropwizard-metrics-java libsnappy-java \
    >/dev/null 2>&1 || return 1
  for package in *.deb; do
    dpkg -x "$package" unpacked || return 1
  done
  mkdir -p "$(dirname -- "$1")" && rm -rf "$1" && mv unpacked "$1"
)

# Have an OpenCL device that works, which pip brings for x86-64 alone, and for no CPU that its compiler
# refuses. Without one we go on: the command itself says what is wrong, or is told to use numpy.
ensure_device() {
  local found=''
  if [[ -e $venv/.device-works || "$*" == *numpy* ]] || find_device; then
    return
  fi
  say "no OpenCL device yet: ${found##*$'\n'}"
  if ! command -v apt-get >/dev/null; then
    say "install PoCL from this system's packages, or a GPU's driver"
  elif ((EUID != 0)); then
    say "to get one: sudo apt-get update && sudo apt-get install -y --no-install-recommends pocl-opencl-icd"
  elif [[ -e $venv/.device-asked ]]; then
    say "apt-get brought none before; to try again: apt-get install -y pocl-opencl-icd"
  else
    touch "$venv/.device-asked"
    if (install_packages pocl-opencl-icd) && find_device; then
      say "found device $found"
    fi
  fi
}

# Set `found` to the device that a run takes, or to why there is none.
find_device() {
  found=$("$venv/bin/python" -I -m kernels.device) || return
  touch "$venv/.device-works"
}

ensure_environment() {
  local extra=$1 started=$SECONDS
  if is_current "$extra"; then
    ensure_system no-python
    ensure_device "$@"
    return
  fi
  [[ -w $root && -w $root/pyproject.toml ]] ||
    not_ready "cannot write to $root: its owner has to set it up, or use a copy of your own"
  # Two calls at once take turns; the second finds the work done. The lock is on a file that is
  # always there, opened for writing (network file systems ask for that) but never written.
  exec 9<>"$root/pyproject.toml"
  flock --timeout 900 9 || not_ready "another set-up of $venv has not ended within 15 minutes"
  if ! is_current "$extra"; then
    ensure_system python
    say "setting up $venv, once: pip fetches numpy, scikit-learn, pyopencl with a CPU device and others"
    is_usable || make_environment
    pip_install "$extra"
    fingerprint "$extra" >"$venv/.installed-$extra"
    # What the tests need includes what a run needs.
    [[ $extra == run ]] || fingerprint run >"$venv/.installed-run"
    rm -f "$venv/.device-works" "$venv/.device-asked"
    say "set up in $((SECONDS - started)) s with Python $(version_of "$venv/bin/python")"
  fi
  exec 9>&-
  ensure_device "$@"
}
