#!/usr/bin/env bash
# Installs what is missing, builds everything and runs every test. The last lines are CTest's summary.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../deploy/prepare.sh"

stage() { say "stage $1 begins after ${SECONDS} s"; }
stage install
install_debian_packages clang-format clang-tidy
install_llama
stage build
configure
build
stage test
ctest --test-dir "$build_dir" --output-on-failure --no-tests=error -j "$(nproc)"
