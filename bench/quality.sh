#!/usr/bin/env bash
# Measures what stored KV does to two models, and writes bench/results/quality*.csv and the tables and the plot of
# docs/quality.md. About 40 minutes on two cores; what is measured stays in build/quality and is not measured again.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../deploy/prepare.sh"
install_debian_packages python3-matplotlib git
install_llama
install_gemma
configure
build bench_quality
# Debian's, which has matplotlib.
exec /usr/bin/python3 "$root_dir/bench/bench_quality.py" --program "$build_dir/bin/bench_quality" \
  --work "$build_dir/quality" --model "SmolLM2-135M=$model_path" --model "Gemma-3-270M=$gemma_path"
