#!/bin/sh
# sh cmake/go.sh demo|test|bench|report|compare [arguments...]
#
#   demo   builds the word counter and runs it on real text; arguments: files or folders to read
#   test   builds and runs the tests, the long ones in a short form unless --long is the first
#          argument; other arguments: those of ctest, such as -R HashIndexTest
#   bench  builds and runs the benchmarks; arguments: those of Google Benchmark
#   report builds the benchmarks and prints the main results as ratios; arguments: those of
#          benchmarks/report.cc
#   compare runs YCSB on ebb and other stores; arguments: benchmarks/compare/compare.cc
#
# On Debian and its kin it first installs missing packages, and prints their names. It touches
# only those packages and the folder build/. CXX=clang++ chooses another compiler, and
# EBB_WERROR=ON makes warnings errors. Plain sh, because a bare Debian has no git, make or cmake.
set -eu
cd "$(dirname "$0")/.."

usage() {
  sed -n '2,/^set/s/^# \{0,1\}//p' cmake/go.sh
  exit 2
}

# The packages among "$@" that dpkg does not have, in one line.
missing_packages() {
  for package in "$@"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || state=absent
    [ "$state" = installed ] || printf '%s ' "$package"
  done
}

install_packages() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "go.sh: no apt here; ebb needs the equivalents of: $*" >&2
    command -v cmake >/dev/null || exit 1
    return 0
  fi
  missing=$(missing_packages "$@")
  [ -n "$missing" ] || return 0
  echo "go.sh: installing $missing" >&2
  as_root=""
  if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "go.sh: that needs root and there is no sudo; install them, then run this again" >&2
      exit 1
    fi
    as_root=sudo
  fi
  $as_root apt-get update -qq
  # shellcheck disable=SC2086  # a list of words
  $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# Names of the tests that were skipped, since ctest counts their suites as passed.
report_skipped() {
  log=$1/Testing/Temporary/LastTest.log
  [ -f "$log" ] || return 0
  skipped=$(sed -n 's|^\[  SKIPPED \] \([A-Za-z0-9_/]*\.[^ ,]*\).*|\1|p' "$log" | sort -u)
  if [ -n "$skipped" ]; then
    echo "Skipped inside suites:"
    echo "$skipped" | sed 's/^/  /'
  else
    echo "Skipped inside suites: none"
  fi
}

[ $# -gt 0 ] || usage
verb=$1
shift
# The package of another compiler: of clang++ it is clang, of clang++-15 clang-15, of g++-12 g++-12.
compiler=$(basename "${CXX:-g++}")
case $compiler in
  clang++*) compiler=clang${compiler#clang++} ;;
  g++*) ;;
  *) compiler=g++ ;;  # not of Debian: it has to be there
esac
packages="$compiler cmake ninja-build pkg-config libabsl-dev libfmt-dev libxxhash-dev"
packages="$packages liburing-dev"
case $verb in
  demo)
    target=word_count
    option=-DEBB_BUILD_EXAMPLES=ON
    ;;
  test)
    if [ "${1:-}" = --long ]; then
      shift
      export EBB_STRESS_SCALE="${EBB_STRESS_SCALE:-1}" EBB_SCHEDULE_SCALE="${EBB_SCHEDULE_SCALE:-1}"
    fi
    target=all
    option="-DEBB_BUILD_TESTS=ON -DEBB_BUILD_EXAMPLES=ON -DEBB_WITH_LZ4=ON"
    packages="$packages libgtest-dev libgmock-dev liblz4-dev perl spin patch"
    ;;
  bench | report | compare)
    target=ebb_$verb
    option=-DEBB_BUILD_BENCHMARKS=ON
    packages="$packages libbenchmark-dev valgrind"
    [ "$verb" != compare ] ||
      packages="$packages librocksdb-dev libleveldb-dev liblmdb-dev libtbb-dev"
    ;;
  *) usage ;;
esac
# shellcheck disable=SC2086  # a list of words
install_packages $packages

# One folder for each compiler: CMake cannot change the compiler of an existing folder.
build=build/go
[ -z "${CXX:-}" ] || build=$build-$(basename "$CXX" | tr -c 'A-Za-z0-9.+_\n' '-')
# What an earlier verb turned on stays on, so that changing between verbs rebuilds nothing.
[ -f "$build/CMakeCache.txt" ] ||
  option="-DEBB_BUILD_TESTS=OFF -DEBB_BUILD_EXAMPLES=OFF -DEBB_BUILD_BENCHMARKS=OFF $option"
# shellcheck disable=SC2086  # a list of words
cmake -S . -B "$build" -G Ninja --log-level=WARNING \
  -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE="-O2 -DNDEBUG" \
  -DEBB_WERROR="${EBB_WERROR:-OFF}" $option
cmake --build "$build" --target "$target"

case $verb in
  demo) exec "$build/examples/word_count" "$@" ;;
  bench | report | compare) exec "$build/benchmarks/ebb_$verb" "$@" ;;
  test)
    failed=0
    ctest --test-dir "$build" --output-on-failure --parallel "$(nproc)" "$@" || failed=$?
    report_skipped "$build"
    exit "$failed"
    ;;
esac
