#!/usr/bin/env bash
# Installs what is missing, builds everything and runs every test; docs/ci.md says what each stage proves.
# The last lines are CTest's summary of the Release build.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../deploy/prepare.sh"

# Built and run with AddressSanitizer and UBSan: what needs neither UCX nor a second process of ours.
sanitized_targets=(
  common_test kernels_test
  slab_allocator_test eviction_policy_test dram_store_test hbm_tier_test nvme_store_test
  client_test client_bad_blocks_test client_gpu_test client_priority_test client_request_test
  client_staging_pool_test
  message_codec_test block_protocol_test decode_fuzz_test
)
sanitized_dir="$build_dir/asan-ubsan"

stage() { # name, then the command that is the stage
  local name="$1" begun=$SECONDS
  shift
  say "stage $name begins at $(date -u +%T), after ${SECONDS} s"
  "$@"
  say "stage $name ends at $(date -u +%T), took $((SECONDS - begun)) s"
}

install_everything() {
  install_debian_packages git clang-format mount
  install_llama
  install_gemma
}

check_format() {
  git -c safe.directory='*' -C "$root_dir" ls-files -z '*.h' '*.cc' |
    (cd "$root_dir" && xargs -0 clang-format --dry-run -Werror)
}

sanitize() {
  (cd "$root_dir" && logged configure-asan-ubsan cmake --preset asan-ubsan)
  build_in "$sanitized_dir" "${sanitized_targets[@]}"
  # UBSan goes on after a finding unless told to stop.
  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
    ctest --test-dir "$sanitized_dir" --output-on-failure --no-tests=error -j "$(nproc)" \
    -L '^(common|kernels|fuzz|storage|client|transport)$'
}

run_tests() {
  ctest --test-dir "$build_dir" --output-on-failure --no-tests=error -j "$(nproc)"
}

stage install install_everything
stage format check_format
stage sanitize sanitize
stage configure configure
stage build build
say "stage test begins at $(date -u +%T), after ${SECONDS} s"
run_tests
