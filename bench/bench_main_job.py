#!/usr/bin/env python3
"""Runs the main job and keeps its figures as the other benchmarks keep theirs. Usage: bench_main_job.py [--out FILE]"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS_AT_MOST = 1800  # of a first run, which builds llama.cpp


def commit():
    def git(*words):
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True, timeout=60).stdout

    return git("rev-parse", "HEAD")[:12] + ("+changes" if git("status", "--porcelain") else "")


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, help="file to write the result to")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    begun = datetime.datetime.now(datetime.timezone.utc)
    job = subprocess.run(["bash", ROOT / "deploy" / "quickstart.sh", "--json"], stdout=subprocess.PIPE, text=True,
                         timeout=SECONDS_AT_MOST, check=False)
    sys.stdout.write(job.stdout)
    if job.returncode != 0:
        sys.exit(job.returncode)
    result = json.loads(job.stdout.splitlines()[-1])
    kept = {
        "benchmark": "bench_main_job", "commit": commit(), "date": begun.isoformat(timespec="seconds"),
        "command": "bash deploy/quickstart.sh --json",
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "kernel": f"{platform.system()} {platform.release()}"},
        "load_at_start": load, "results": [result],
        "summary": {"ttft_warm_over_cold": result["ttft_warm_ms"] / result["ttft_cold_ms"],
                    "ttft_after_kill_over_cold": result["ttft_after_kill_ms"] / result["ttft_cold_ms"]},
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
