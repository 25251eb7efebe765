#!/usr/bin/env python3
"""The main job: one process reads a document, others skip reading it.

Starts hadald, then runs hadal-llama as fresh processes: A stores the document's KV, B reuses it, C does
without Hadal, and after kill -9 and a restart of hadald D reuses what NVMe kept. Then it measures how far
the model's distributions move. Prints a table and bars, or with --json one JSON object as the last line.
Standard library only. Everything it writes is under <build>/main_job.
"""

import argparse
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

TEXTS = pathlib.Path(__file__).resolve().parent.parent / "client" / "llama" / "texts"
DOCUMENT = TEXTS / "lighthouse.txt"
QUESTION_A = "Who was the keeper of the lighthouse at Karrow Point?"
QUESTION_B = "What was the name of the keeper's daughter, and what was her dog called?"
# File, tokens of the prefix, teacher-forced tokens after it: 1,280 of these in all.
QUALITY_CASES = [f"{TEXTS / name}:{prefix}:256" for name, prefix in (
    ("lighthouse.txt", 1024), ("lighthouse.txt", 512), ("lighthouse.txt", 1536), ("tide_mill.txt", 512),
    ("tide_mill.txt", 896))]
PROCESS_TIMEOUT_S = 300  # of a hadal-llama
START_TIMEOUT_S = 60
METRICS_TIMEOUT_S = 10
PERSIST_TIMEOUT_S = 30
STOP_TIMEOUT_S = 60
POLL_S = 0.05

CONFIG = """
[node]
name = "main-job"
[data]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[metrics]
listen = "127.0.0.1:0"
[dram]
capacity = "512MiB"
[nvme]
path = "{nvme}"
capacity = "2GiB"
memtable = "64MiB"
"""


def say(text):
    print(f"hadal: {text}", file=sys.stderr, flush=True)


def fail(text):
    say(text)
    sys.exit(1)


class Hadald:
    """The store node as a child process; always gone when the program ends."""

    def __init__(self, binary, work):
        self.binary, self.work, self.process = binary, work, None
        self.config, self.log = work / "hadald.toml", work / "hadald.log"
        self.config.write_text(CONFIG.format(nvme=work / "nvme"))

    def start(self):
        # Files, not pipes: a wait on them has a bound, and a node that says much never blocks.
        said = self.work / "hadald.out"
        with open(said, "wb") as output, open(self.log, "ab") as log:
            self.process = subprocess.Popen([self.binary, "--config", self.config], stdout=output, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        # UCX prints its warnings on standard output too.
        while not (ready := re.search(r"(?m)^hadald ready (.*)\n", said.read_text())):
            if self.process.poll() is not None:
                fail(f"hadald ended with {self.process.returncode} before it was ready; {self.log} says why")
            if time.monotonic() > deadline:
                fail(f"hadald was not ready within {START_TIMEOUT_S} s; see {self.log}, and whether the disk is slow")
            time.sleep(POLL_S)
        self.address = dict(word.split("=") for word in ready.group(1).split())

    def metrics(self):
        url = f"http://{self.address['metrics']}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=METRICS_TIMEOUT_S) as answer:
                lines = answer.read().decode().splitlines()
        except OSError as error:
            fail(f"cannot read {url} within {METRICS_TIMEOUT_S} s: {error}; {self.log} says what hadald did")
        return {name: float(value) for name, value in
                (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))}

    def metric(self, name, **labels):
        """Sum over all series of a name that carry these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(value for series, value in self.metrics().items()
                   if series.split("{")[0] == name and all(label in series for label in wanted))

    def wait_persisted(self, blocks):
        deadline = time.monotonic() + PERSIST_TIMEOUT_S
        while (persisted := self.metric("hadal_persisted_blocks")) < blocks:
            if time.monotonic() > deadline:
                fail(f"hadald persisted {persisted:.0f} of {blocks} blocks within {PERSIST_TIMEOUT_S} s; "
                     f"see {self.log}, and whether the disk under {self.work} is full or slow")
            time.sleep(POLL_S)

    def kill(self, number):
        if not self.process or self.process.poll() is not None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            fail(f"hadald (process {self.process.pid}) did not end within {STOP_TIMEOUT_S} s of signal {number:d}; "
                 f"see {self.log}")


def run(command):
    name = pathlib.Path(command[0]).name
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=PROCESS_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        fail(f"{name} {command[1]} did not end within {PROCESS_TIMEOUT_S} s; use a smaller model or a faster machine")
    if done.returncode != 0:
        fail(f"{name} {command[1]} failed with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])  # UCX may warn in lines before it


class MainJob:
    def __init__(self, arguments):
        self.build = pathlib.Path(arguments.build).resolve()
        self.arguments = arguments
        for binary in (self.build / "bin" / "hadald", self.build / "bin" / "hadal-llama"):
            if not binary.is_file():
                fail(f"{binary} is absent; build it, as deploy/quickstart.sh does, or correct --build")
        self.work = self.build / "main_job"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.hadald = Hadald(self.build / "bin" / "hadald", self.work)

    def llama(self, command, *words, codec=None):
        base = [self.build / "bin" / "hadal-llama", command, "--model", self.arguments.model,
                "--transport", self.arguments.transport, "--codec", codec or self.arguments.codec]
        return run(base + list(words))

    def nodes(self):
        return ["--nodes", self.hadald.address["data"]]

    def ask(self, question, *words):
        return self.llama("ask", "--document", self.arguments.document, "--question", question, *words)

    def quality(self, codec, cases):
        words = [word for case in cases for word in ("--case", case)]
        return self.llama("quality", *self.nodes(), *words, codec=codec)

    def run(self):
        self.hadald.start()
        say("process A reads the document, answers, and stores its KV in hadald")
        first = self.ask(QUESTION_A, *self.nodes(), "--store")
        resident = {tier: self.hadald.metric("hadal_tier_used_bytes", tier=tier) for tier in ("dram",)}
        say("process B asks something else about it, with Hadal")
        warm = self.ask(QUESTION_B, *self.nodes())
        say("process C asks the same without Hadal")
        cold = self.ask(QUESTION_B)
        blocks = -(-first["document_tokens"] // first["block_tokens"])
        self.hadald.wait_persisted(blocks)
        resident["nvme"] = self.hadald.metric("hadal_tier_used_bytes", tier="nvme")
        say("hadald is killed with -9 and started again; process D asks once more")
        self.hadald.kill(signal.SIGKILL)
        self.hadald.start()
        after_kill = self.ask(QUESTION_B, *self.nodes())
        say("comparing next-token distributions with and without Hadal")
        cases = self.arguments.case or QUALITY_CASES
        quality = self.quality(self.arguments.codec, cases)
        raw = self.quality("raw", cases[:1])
        self.hadald.kill(signal.SIGTERM)
        return self.result(first, warm, cold, after_kill) | {
            "mean_kl": quality["mean_kl"], "same_top_token": quality["same_top_token"],
            "compared_tokens": quality["tokens"], "continuation_equal_raw": raw["bit_identical"],
            "resident_ratio": first["put"]["raw_bytes"] / max(1, sum(resident.values())),
            "resident_bytes": resident}

    @staticmethod
    def result(first, warm, cold, after_kill):
        put = first["put"]
        return {
            "prompt_tokens": warm["prompt_tokens"], "document_tokens": warm["document_tokens"],
            "reused_tokens": warm["reused_tokens"], "block_tokens": warm["block_tokens"],
            "raw_bytes": put["raw_bytes"], "encoded_bytes": put["encoded_bytes"],
            "wire_bytes_put": put["wire_bytes"], "wire_bytes_get": warm["get"]["wire_bytes"],
            "stored_ratio": put["raw_bytes"] / max(1, put["encoded_bytes"]),
            "ttft_cold_ms": cold["ttft_ms"], "ttft_warm_ms": warm["ttft_ms"],
            "ttft_after_kill_ms": after_kill["ttft_ms"], "get_decoded_ms": warm["get_decoded_ms"],
            "get_decoded_after_kill_ms": after_kill["get_decoded_ms"], "put_ms": first["put_ms"],
            "reused_tokens_after_kill": after_kill["reused_tokens"],
            "nvme_blocks_after_kill": after_kill["get"]["nvme_blocks"],
            "answer_cold": cold["answer"], "answer_warm": warm["answer"],
            "answer_after_kill": after_kill["answer"], "codec": warm["codec"],
            "transport": warm["transport"]}


def bar(label, value, top, unit, scale):
    width = max(1, round(46 * value / top)) if top > 0 else 0
    print(f"  {label:<24} {'█' * width:<46} {value / scale:10.1f} {unit}")


def show(result):
    rows = [("prompt", f"{result['prompt_tokens']} tokens"),
            ("reused by B, from DRAM", f"{result['reused_tokens']} tokens"),
            ("reused by D after kill -9", f"{result['reused_tokens_after_kill']} tokens, "
             f"{result['nvme_blocks_after_kill']} blocks from NVMe"),
            ("codec, transport", f"{result['codec']}, {result['transport']}"),
            ("stored ratio", f"{result['stored_ratio']:.2f} (resident in DRAM and NVMe together "
             f"{result['resident_ratio']:.2f})"),
            ("get and decode", f"{result['get_decoded_ms']:.1f} ms, after kill "
             f"{result['get_decoded_after_kill_ms']:.1f} ms"),
            ("mean KL, same top token", f"{result['mean_kl']:.4f}, {100 * result['same_top_token']:.1f} % "
             f"of {result['compared_tokens']}"),
            ("raw codec bit-identical", str(result["continuation_equal_raw"]).lower()),
            ("answer without Hadal", result["answer_cold"].strip()),
            ("answer with Hadal", result["answer_warm"].strip())]
    print()
    for name, value in rows:
        print(f"  {name:<26} {value}")
    print("\n  bytes")
    top = result["raw_bytes"]
    bar("raw KV", result["raw_bytes"], top, "MB", 1e6)
    bar("shipped to hadald", result["wire_bytes_put"], top, "MB", 1e6)
    bar("stored", result["encoded_bytes"], top, "MB", 1e6)
    print("\n  time to first token")
    top = result["ttft_cold_ms"]
    bar("without Hadal", result["ttft_cold_ms"], top, "ms", 1)
    bar("with Hadal", result["ttft_warm_ms"], top, "ms", 1)
    bar("after kill -9, NVMe", result["ttft_after_kill_ms"], top, "ms", 1)
    print(flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--build", required=True, help="build folder with bin/hadald and bin/hadal-llama")
    parser.add_argument("--model", required=True, help="gguf file")
    parser.add_argument("--document", default=str(DOCUMENT), help="text file")
    parser.add_argument("--codec", default="k5v4", help="raw or k1v1 to k8v8")
    parser.add_argument("--transport", default="auto", help="auto or tcp")
    parser.add_argument("--case", action="append", metavar="FILE:PREFIX_TOKENS:CONTINUED_TOKENS",
                        help="compare distributions here, the raw codec's in the first case;\n"
                             "may be given more than once (default: five prefixes of two texts)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no child is left
    job = MainJob(parser.parse_args())
    try:
        result = job.run()
    finally:
        job.hadald.kill(signal.SIGKILL)
    show(result)
    if job.arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
