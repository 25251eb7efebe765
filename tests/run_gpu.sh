#!/usr/bin/env bash
# On a machine with a GPU, without a network: builds the codec with what is there, runs its tests on the host and on
# the device, under compute-sanitizer where that is there, and then bench_gpu. Says what is missing and installs nothing.
# Arguments go to CMake, such as -DCMAKE_CUDA_ARCHITECTURES=90-real. Results: build/gpu/bench_gpu.json.
set -euo pipefail

root_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
build_dir="$root_dir/build/gpu"
PATH="$PATH:/usr/local/cuda/bin"

say() { echo "run_gpu: $*" >&2; }

missing=()
needs_command() { # command, where it comes from
  command -v "$1" >/dev/null || missing+=("$1 ($2)")
}
needs_file() { # pattern below a prefix, where it comes from
  compgen -G "/usr/include/$1" >/dev/null || compgen -G "/usr/local/include/$1" >/dev/null || missing+=("$1 ($2)")
}
needs_command cmake "Debian package cmake"
needs_command ninja "Debian package ninja-build"
needs_command g++ "Debian package g++"
needs_command nvcc "CUDA toolkit 12.4 or later"
needs_command python3 "Debian package python3"
needs_file absl/status/statusor.h "Debian package libabsl-dev"
needs_file hwy/highway.h "Debian package libhwy-dev"
needs_file xxhash.h "Debian package libxxhash-dev"
needs_file openssl/sha.h "Debian package libssl-dev"
needs_file gtest/gtest.h "Debian packages libgtest-dev and libgmock-dev"
needs_file CLI/CLI.hpp "Debian package libcli11-dev"
needs_file nlohmann/json.hpp "Debian package nlohmann-json3-dev"
if [ ${#missing[@]} -ne 0 ]; then
  printf 'run_gpu: missing: %s\n' "${missing[@]}" >&2
  exit 1
fi

cmake -S "$root_dir" -B "$build_dir" -G Ninja -DHADAL_GPU_ONLY=ON "$@" >&2
say "building (the codec of the host takes minutes)"
cmake --build "$build_dir" --target kernels_test cuda_arguments_test cuda_device_test bench_gpu >&2
ctest --test-dir "$build_dir" --output-on-failure --no-tests=error -L '^(kernels|gpu)$' >&2

code=0
"$build_dir/tests/cuda_device_test" --gtest_list_tests >/dev/null || code=$?
if [ "$code" -eq 77 ]; then
  say "there is no CUDA device: compute-sanitizer and bench_gpu were not run"
  exit 77
fi
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck; do
    say "compute-sanitizer $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$build_dir/tests/cuda_device_test" \
      --gtest_filter='-*LargeBlocks*' >&2
  done
else
  say "compute-sanitizer is not there: the kernels were not run under it"
fi
"$build_dir/bin/bench_gpu" --out "$build_dir/bench_gpu.json"
say "results: build/gpu/bench_gpu.json"
