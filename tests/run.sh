#!/usr/bin/env bash
# Installs what is missing, builds everything and runs every test.
# The last lines are CTest's summary of the Release build.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../deploy/prepare.sh"

stage() { # name, then the command that is the stage
  local name="$1" begun=$SECONDS
  shift
  say "stage $name begins at $(date -u +%T), after ${SECONDS} s"
  "$@"
  say "stage $name ends at $(date -u +%T), took $((SECONDS - begun)) s"
}

install_everything() {
  install_debian_packages git clang-format
  install_llama
}

check_format() {
  git -c safe.directory='*' -C "$root_dir" ls-files -z '*.h' '*.cc' |
    (cd "$root_dir" && xargs -0 clang-format --dry-run -Werror)
}

run_tests() {
  ctest --test-dir "$build_dir" --output-on-failure --no-tests=error -j "$(nproc)"
}

stage install install_everything
stage format check_format
stage configure configure
stage build build
say "stage test begins at $(date -u +%T), after ${SECONDS} s"
run_tests
