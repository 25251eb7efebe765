#!/usr/bin/env python3
"""What storing KV does to a real model stays within what docs/quality.md says, on one text.

Run as `TEST.py BENCH_QUALITY MODEL.gguf WORK_FOLDER`.
"""

import json
import pathlib
import subprocess
import sys

TEXT = pathlib.Path(__file__).resolve().parents[2] / "client" / "llama" / "texts" / "lighthouse.txt"
VARIANTS = ["raw", "k8v8", "k5v4", "k4v4", "k5v4>k4v3", "k3v3", "polar", "e4m3", "rows:q5_1", "rows:q4_0"]


def problems(kl, bits):
    expectations = [
        ("raw changes nothing", kl["raw"] == 0),
        ("8 bits do, since the model's arithmetic has noise", kl["k8v8"] > 0),
        ("5 and 4 bits stay near that floor", kl["k5v4"] < 2 * kl["k8v8"]),
        ("4 bits too", kl["k4v4"] < 2.5 * kl["k8v8"]),
        ("3 bits too", kl["k3v3"] < 6 * kl["k8v8"]),
        ("fewer bits move more", kl["k5v4"] < kl["k4v4"] < kl["k5v4>k4v3"] < kl["k3v3"]),
        ("4 bits move less than q4_0's rows", kl["k4v4"] < kl["rows:q4_0"] and bits["k4v4"] <= bits["rows:q4_0"]),
        ("5 bits of keys move less than q5_1's rows", kl["k5v4"] < kl["rows:q5_1"] and bits["k5v4"] < bits["rows:q5_1"]),
        ("PolarQuant moves more than 4 bits", kl["k4v4"] < kl["polar"]),
        ("FP8 is near the floor", kl["e4m3"] < 2 * kl["k8v8"]),
    ]
    return [name for name, holds in expectations if not holds]


def main():
    program, model, work = sys.argv[1:4]
    out = pathlib.Path(work) / "quality_test.json"
    subprocess.run([program, "--model", model, "--text", TEXT, "--tokens-out", out, *VARIANTS], check=True, timeout=600)
    figures = json.loads(out.read_text())
    found = problems({name: figures[name]["mean_kl"] for name in VARIANTS},
                     {name: figures[name]["bits_per_value"] for name in VARIANTS})
    return f"does not hold: {'; '.join(found)}" if found else 0


if __name__ == "__main__":
    sys.exit(main())
