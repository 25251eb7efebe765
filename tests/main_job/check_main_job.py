#!/usr/bin/env python3
"""Runs the main job on the real model and checks what it promises, but for timings (bench/ measures those)."""

import json
import pathlib
import subprocess
import sys

FIELDS = {
    "prompt_tokens": int, "reused_tokens": int, "block_tokens": int, "raw_bytes": int, "encoded_bytes": int,
    "wire_bytes_put": int, "wire_bytes_get": int, "stored_ratio": float, "ttft_cold_ms": float,
    "ttft_warm_ms": float, "ttft_after_kill_ms": float, "reused_tokens_after_kill": int, "mean_kl": float,
    "same_top_token": float, "continuation_equal_raw": bool, "answer_cold": str, "answer_warm": str,
    "codec": str, "transport": str,
}


def problems(result):
    for name, kind in FIELDS.items():
        if not isinstance(result.get(name), kind):
            yield f"{name} is {result.get(name)!r}, not a {kind.__name__}"
            return
    blocks = -(-result["document_tokens"] // result["block_tokens"])
    expectations = [
        ("a document of at least 1,500 tokens", result["document_tokens"] >= 1500),
        ("B reuses the whole document, the short block too", result["reused_tokens"] == result["document_tokens"]),
        ("D reuses it too", result["reused_tokens_after_kill"] == result["document_tokens"]),
        ("D is served from NVMe", result["nvme_blocks_after_kill"] == blocks),
        ("only encoded bytes travel", result["wire_bytes_put"] == result["encoded_bytes"]),
        ("as many come back", result["wire_bytes_get"] == result["encoded_bytes"]),
        ("stored_ratio at least 3.2", result["stored_ratio"] >= 3.2),
        ("at least 1,024 tokens compared", result["compared_tokens"] >= 1024),
        ("mean_kl at most 0.006", 0 < result["mean_kl"] <= 0.006),
        ("same_top_token at least 0.96", result["same_top_token"] >= 0.96),
        ("raw codec bit-identical", result["continuation_equal_raw"]),
        ("answers", result["answer_cold"].strip() and result["answer_warm"].strip()),
        ("codec k5v4", result["codec"] == "k5v4"),
    ]
    yield from (name for name, holds in expectations if not holds)


def main():
    main_job, build, model = sys.argv[1:4]
    done = subprocess.run([sys.executable, main_job, "--build", build, "--model", model, "--json"],
                          capture_output=True, text=True, timeout=1200)
    print(done.stdout, done.stderr, sep="\n")
    if done.returncode != 0:
        return f"the main job failed with {done.returncode}"
    found = list(problems(json.loads(done.stdout.splitlines()[-1])))
    return f"does not hold: {'; '.join(found)}" if found else 0


if __name__ == "__main__":
    sys.exit(main())
