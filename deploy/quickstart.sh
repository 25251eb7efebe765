#!/usr/bin/env bash
# Builds Hadal and runs its main job on a real model: a long document is read once, and other processes
# skip reading it. Usage: deploy/quickstart.sh [--json] [--model FILE.gguf]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

json=() model=""
while [ $# -gt 0 ]; do
  case "$1" in
    --help | -h) sed -n '2,3s/^# //p' "$0"; exit 0 ;;
    --json) json=(--json) ;;
    --model) model="${2:?--model wants a gguf file}"; shift ;;
    *) say "unknown argument '$1'; allowed are --json, --model FILE.gguf and --help"; exit 2 ;;
  esac
  shift
done
if [ -n "$model" ] && [ ! -r "$model" ]; then
  say "cannot read model '$model'; name a gguf file"
  exit 2
fi
install_debian_packages
install_llama
configure
build hadald hadalctl hadal-llama
exec python3 "$root_dir/deploy/main_job.py" --build "$build_dir" --model "${model:-$model_path}" "${json[@]}"
