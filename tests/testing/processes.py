"""hadald and hadalctl as child processes, for tests. Standard library only.

Tests are run as `TEST.py BIN_DIR`; `main` takes that argument off. Every wait has a bound, every child is
gone when its test ends, and everything lies in a temporary directory that goes with the test.
"""

import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_S = 30  # generous: sanitizer builds on a busy machine
BIN = None


def main():
    global BIN
    BIN = pathlib.Path(sys.argv.pop(1)).resolve()
    # Otherwise the module that a test imported has a BIN of its own.
    sys.modules["processes"].BIN = BIN
    unittest.main(verbosity=2)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(name, *words, timeout=60, **options):
    """A finished child: returncode, stdout, stderr."""
    return subprocess.run([BIN / name, *map(str, words)], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, **options)


class Hadald:
    """A node on free ports of 127.0.0.1. Settings are TOML texts by "section.key"."""

    DEFAULTS = {"data.listen": '"127.0.0.1:0"', "data.transport": '"tcp"', "admin.listen": '"127.0.0.1:0"',
                "metrics.listen": '"127.0.0.1:0"', "dram.capacity": '"64MiB"'}

    def __init__(self, directory, **settings):
        self.directory = pathlib.Path(directory)
        self.file = self.directory / "hadald.toml"
        self.log_file = self.directory / "hadald.log"
        self.process = None
        self.configure({key.replace("__", "."): value for key, value in settings.items()})

    def configure(self, settings):
        sections = {}
        for key, value in (self.DEFAULTS | settings).items():
            section, name = key.split(".")
            sections.setdefault(section, []).append(f"{name} = {value}")
        self.file.write_text("".join(f"[{section}]\n" + "\n".join(lines) + "\n"
                                     for section, lines in sections.items()))

    def start(self):
        """Waits for the line that says where it listens."""
        # A file, not a pipe: a wait on it has a bound, and a node that says much never blocks.
        said = self.directory / "hadald.out"
        with open(said, "wb") as output, open(self.log_file, "ab") as log:
            self.process = subprocess.Popen([BIN / "hadald", "--config", self.file], stdout=output, stderr=log,
                                            stdin=subprocess.DEVNULL)
        end = time.monotonic() + START_S
        while not (ready := re.search(r"(?m)^hadald ready (.*)\n", said.read_text())):
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise AssertionError(f"hadald was not ready within {START_S} s or ended with "
                                     f"{self.process.returncode}: {self.log_file.read_text()}")
            time.sleep(0.02)
        self.address = dict(word.split("=") for word in ready.group(1).split())
        return self

    def fails(self):
        """Its exit code and its messages, of a node that cannot start."""
        done = run("hadald", "--config", self.file, timeout=START_S)
        return done.returncode, done.stderr.splitlines()

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=30):
        return self.process.wait(timeout=timeout)

    def stop(self):
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=30)

    def log_lines(self):
        return self.log_file.read_text().splitlines()

    def scrape(self, timeout=10):
        with urllib.request.urlopen(f"http://{self.address['metrics']}/metrics", timeout=timeout) as answer:
            return answer.read().decode()

    def metrics(self):
        """Values by series, such as hadal_tier_blocks{tier="dram"}."""
        lines = [line for line in self.scrape().splitlines() if line and not line.startswith("#")]
        return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines)}

    def ctl(self, command, *words, **options):
        where = ("--nodes", self.address["data"]) if command in ("put", "get") else (
            "--admin", self.address["admin"])
        return run("hadalctl", command, *where, *words, **options)

    def ctl_json(self, command, *words):
        done = self.ctl(command, "--json", *words)
        if done.returncode != 0:
            raise AssertionError(f"hadalctl {command} answered {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)


class ProcessTest(unittest.TestCase):
    """A temporary directory a test, and nodes that are gone at its end."""

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="hadal-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def node(self, **settings):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="node-", dir=self.directory))
        node = Hadald(folder, **settings)
        self.addCleanup(node.kill)
        return node

    def nvme_node(self, **settings):
        path = self.directory / "nvme"
        small = {"nvme__path": f'"{path}"', "nvme__capacity": '"256MiB"', "nvme__memtable": '"8MiB"'}
        return self.node(**(small | settings))

    def file(self, name, content):
        path = self.directory / name
        path.write_bytes(content)
        return path

    def eventually(self, condition, what, timeout=30):
        end = time.monotonic() + timeout
        while not condition():
            self.assertLess(time.monotonic(), end, f"not within {timeout} s: {what}")
            time.sleep(0.05)
