#!/usr/bin/env bash
# Fuzzes the decoder with libFuzzer: tests/fuzz/run.sh [inputs, default 10000000]. Needs clang and its
# runtime (Debian: clang libclang-rt-14-dev). A finding ends it with an error and leaves its input in
# build/fuzz.
set -euo pipefail
root_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
inputs="${1:-10000000}"
for tool in clang++ cmake ninja; do
  command -v "$tool" > /dev/null || { echo "run.sh: $tool is missing; apt-get install clang libclang-rt-14-dev cmake ninja-build" >&2; exit 1; }
done
cd "$root_dir"
cmake --preset fuzz > /dev/null
cmake --build --preset fuzz --target decode_fuzz
mkdir -p build/fuzz/corpus
cd build/fuzz
# Processes that last, since each makes tables of the layouts that come by; they share the corpus. Weighing inputs by
# entropy would take most of the time.
jobs="$(nproc)" processes=()
for job in $(seq "$jobs"); do
  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 tests/decode_fuzz corpus -max_len=400 -print_final_stats=1 \
    -seed="$job" -reload=60 -entropic=0 -runs="$((inputs / jobs))" &
  processes+=($!)
done
code=0
for process in "${processes[@]}"; do wait "$process" || code=$?; done
exit "$code"
