#!/usr/bin/env python3
"""hadald as a process: start, logs, metrics, shutdown, and what it says where it cannot start."""

import json
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "testing"))
import processes  # noqa: E402


def small_disk(test):
    """A file system of 32 MiB, gone at the end of the test, which is skipped where there is none."""
    disk = test.directory / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", disk], capture_output=True)
    if mounted.returncode != 0:
        test.skipTest("may not mount a tmpfs")
    test.addCleanup(subprocess.run, ["umount", disk], check=True)
    return disk


def fill(disk):
    with open(disk / "ballast", "wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"x" * (1 << 20))
        except OSError:
            pass  # full, as wanted


class RunningTest(processes.ProcessTest):
    def test_logs_are_one_json_object_a_line(self):
        node = self.nvme_node(log__format='"json"', log__level='"debug"', node__name='"a \\"b\\"\\n\u00e9"').start()
        node.ctl_json("status")
        self.assertEqual(node.stop(), 0)
        events = [json.loads(line) for line in node.log_lines()]
        for event in events:
            self.assertIn(event["level"], ("trace", "debug", "info", "warn", "error"))
            self.assertRegex(event["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d$")
        named = {event["event"]: event for event in events}
        self.assertEqual(named["ready"]["node"], 'a "b"\n\u00e9')
        for field in ("version", "transport", "data", "admin", "metrics", "recovered_blocks"):
            self.assertTrue(named["ready"][field], field)
        for field in ("drained", "flushed", "written_blocks", "written_bytes", "persisted_blocks"):
            self.assertTrue(named["stopped"][field], field)

    def test_idle_connections_do_not_keep_metrics_from_being_scraped(self):
        node = self.node().start()
        host, port = node.address["metrics"].split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(6)]
        self.assertIn("hadal_build_info", node.scrape(timeout=10))
        self.assertEqual(node.stop(), 0)
        for connection in silent:
            connection.close()

    def test_says_that_blocks_are_not_written_for_lack_of_space(self):
        node = self.nvme_node(log__format='"json"', nvme__free_space_min_fraction="1.0").start()
        node.ctl_json("put", self.file("name", b"content"))

        def told():
            return [line for line in node.log_lines() if "blocks not written to NVMe" in line]
        self.eventually(told, "the log says that blocks are not written")
        event = json.loads(told()[0])
        self.assertEqual((event["level"], event["path"]), ("warn", str(self.directory / "nvme")))
        self.assertRegex(event["reason"], r"has \d+% free, nvme.free_space_min_fraction is 1; free space")
        self.assertEqual(node.stop(), 0)
        self.assertIn("its disk is full or failing", node.log_lines()[-1])

    def test_says_that_the_nvme_directory_was_damaged(self):
        node = self.nvme_node(log__format='"json"').start()
        node.ctl_json("put", *[self.file(f"file-{i}", bytes([i]) * 200_000) for i in range(4)])
        self.assertEqual(node.stop(), 0)
        for table in (self.directory / "nvme").glob("*.sst"):
            if table.stat().st_size < 64 << 10:  # metadata
                content = table.read_bytes()
                table.write_bytes(content[:10] + bytes([content[10] ^ 1]) + content[11:])
        node.start()
        self.assertEqual((node.metrics()["hadal_recovery_repaired"], node.metrics()["hadal_recovery_lost"]), (1, 1))
        event = json.loads([line for line in node.log_lines() if "NVMe directory was damaged" in line][-1])
        self.assertEqual((event["level"], event["path"], event["recovered_blocks"]),
                         ("warn", str(self.directory / "nvme"), "0"))
        self.assertEqual(node.stop(), 0)

    def test_goes_on_and_ends_well_with_a_full_disk(self):
        disk = small_disk(self)
        node = self.node(nvme__path=f'"{disk / "nvme"}"', nvme__capacity='"16MiB"', nvme__memtable='"1MiB"',
                         nvme__flush_interval='"100ms"', nvme__free_space_min_fraction="0.0", log__format='"json"')
        node.start()
        fill(disk)
        files = [self.file(f"file-{i}", bytes([i]) * 500_000) for i in range(8)]
        node.ctl_json("put", *files)
        self.eventually(lambda: "blocks not written to NVMe" in node.log_file.read_text(), "the log says so")
        for file in files:
            node.ctl_json("get", file.name, "--out", self.directory / "out")
            self.assertEqual((self.directory / "out").read_bytes(), file.read_bytes())
        self.assertEqual(node.stop(), 0)
        stopped = json.loads(node.log_lines()[-1])
        self.assertEqual((stopped["event"], stopped["level"]), ("stopped", "warn"))

    def test_unknown_page_of_metrics_is_not_found(self):
        node = self.node().start()
        host, port = node.address["metrics"].split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"GET /nothing HTTP/1.0\r\n\r\n")
            self.assertIn(b"404", connection.recv(4096))


class ShutdownTest(processes.ProcessTest):
    def stored(self, node, count, size):
        files = [self.file(f"file-{i}", bytes([i]) * size) for i in range(count)]
        node.ctl_json("put", *files)
        return files

    def stopped_event(self, node):
        return [json.loads(line) for line in node.log_lines() if '"stopped"' in line][-1]

    def test_flushes_dram_and_a_restart_finds_it(self):
        # Nothing is flushed by itself within this test: the shutdown must.
        node = self.nvme_node(log__format='"json"', nvme__flush_interval='"1h"').start()
        files = self.stored(node, 5, 1 << 20)
        self.assertEqual(node.metrics()["hadal_persisted_blocks"], 0)
        self.assertEqual(node.stop(), 0)
        stopped = self.stopped_event(node)
        self.assertEqual((stopped["drained"], stopped["flushed"]), ("yes", "yes"))
        self.assertEqual((stopped["written_blocks"], stopped["persisted_blocks"]), ("5", "5"))
        self.assertGreaterEqual(int(stopped["written_bytes"]), 5 << 20)
        node.start()
        self.assertEqual(node.metrics()["hadal_recovered_blocks"], 5)
        for file in files:
            out = self.directory / "out"
            self.assertEqual(node.ctl_json("get", file.name, "--out", out)["tier"], "nvme")
            self.assertEqual(out.read_bytes(), file.read_bytes())

    def test_what_was_put_before_the_signal_is_there_after_a_restart(self):
        node = self.nvme_node(nvme__flush_interval='"1h"').start()
        files = [self.file(f"file-{i}", bytes([i]) * (1 << 20)) for i in range(40)]
        command = [processes.BIN / "hadalctl", "put", "--nodes", node.address["data"], "--timeout", "20", *files]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as putting:
            self.eventually(lambda: node.metrics()["hadal_puts_stored_total"] >= 3, "three files are stored")
            self.assertEqual(node.stop(), 0)
            out, _ = putting.communicate(timeout=60)
        stored = [line.split()[1].strip(",") for line in out.splitlines()]
        self.assertGreaterEqual(len(stored), 2)  # the third may still be on its way to the client
        node.start()
        for name in stored:
            node.ctl_json("get", name, "--out", self.directory / "out")
            self.assertEqual((self.directory / "out").read_bytes(), (self.directory / name).read_bytes(), name)

    def test_short_timeout_says_what_was_written_and_no_more(self):
        node = self.nvme_node(log__format='"json"', nvme__flush_interval='"1h"',
                              node__shutdown_timeout='"100ms"').start()
        self.stored(node, 40, 1 << 20)
        self.assertEqual(node.stop(), 0)
        stopped = self.stopped_event(node)
        self.assertRegex(stopped["flushed"], r"^(yes|no: node.shutdown_timeout \(100ms\) was up first; .*)$")
        persisted = int(stopped["persisted_blocks"])
        if stopped["flushed"] == "yes":
            self.assertEqual(persisted, 40)
        node.start()
        self.assertGreaterEqual(node.metrics()["hadal_recovered_blocks"], persisted)

    def test_counts_a_block_that_nvme_does_not_take_and_writes_the_others(self):
        node = self.nvme_node(log__format='"json"', nvme__flush_interval='"1h"', nvme__queue_max='"1MiB"').start()
        node.ctl_json("put", self.file("large", b"x" * (9 << 20)))  # the memtable is 8 MiB
        files = self.stored(node, 10, 1 << 20)
        self.assertEqual(node.stop(), 0)
        stopped = self.stopped_event(node)
        self.assertEqual((stopped["level"], stopped["left_blocks"]), ("warn", "1"))
        self.assertRegex(stopped["flushed"], r"^no: 1 blocks that only DRAM held are lost: 1 larger than nvme.memtable")
        self.assertEqual(stopped["persisted_blocks"], "10")
        node.start()
        for file in files:
            node.ctl_json("get", file.name, "--out", self.directory / "out")
            self.assertEqual((self.directory / "out").read_bytes(), file.read_bytes())

    def test_without_nvme_says_that_nothing_was_written(self):
        node = self.node(log__format='"json"').start()
        self.stored(node, 1, 1000)
        self.assertEqual(node.stop(), 0)
        stopped = self.stopped_event(node)
        self.assertEqual((stopped["level"], stopped["written_blocks"]), ("info", "0"))
        self.assertIn("nvme.path is empty", stopped["flushed"])

    def test_sigint_is_the_same(self):
        node = self.node().start()
        node.signal(signal.SIGINT)
        self.assertEqual(node.wait(), 0)

    def test_second_signal_ends_at_once(self):
        node = self.node(log__format='"json"').start()
        # Both are pending when it goes on: standard signals of one kind would merge.
        node.signal(signal.SIGSTOP)
        node.signal(signal.SIGTERM)
        node.signal(signal.SIGINT)
        node.signal(signal.SIGCONT)
        code = node.wait()
        events = [json.loads(line)["event"] for line in node.log_lines()]
        # A shutdown of an idle node may be through before the second one is taken.
        self.assertIn((code, events[-1]), ((1, "ended at once"), (0, "stopped")))

    def test_puts_are_refused_and_the_exit_is_bounded_with_a_client_that_stays(self):
        node = self.node(node__shutdown_timeout='"2s"').start()
        host, port = node.address["admin"].split(":")
        with socket.create_connection((host, int(port))):  # a gRPC client that says nothing
            self.assertEqual(node.stop(), 0)


class CannotStartTest(processes.ProcessTest):
    def assert_one_message(self, node, *texts):
        code, lines = node.fails()
        self.assertEqual(code, 1, lines)
        self.assertEqual(len(lines), 1, lines)
        for text in texts:
            self.assertIn(text, lines[0])

    def test_port_in_use(self):
        other = self.node().start()
        for listener in ("data", "admin", "metrics"):
            with self.subTest(listener):
                address = other.address[listener]
                node = self.node(**{f"{listener}__listen": f'"{address}"'})
                self.assert_one_message(node, address, f"change {listener}.listen or stop what uses it")
        self.assertIn("hadal_build_info", other.scrape())

    def test_address_of_another_machine(self):
        for listener in ("data", "admin", "metrics"):
            with self.subTest(listener):
                node = self.node(**{f"{listener}__listen": '"203.0.113.7:7499"'})
                self.assert_one_message(node, "203.0.113.7:7499", f"change {listener}.listen")

    def test_name_that_does_not_resolve(self):
        for listener in ("data", "admin", "metrics"):
            with self.subTest(listener):
                node = self.node(**{f"{listener}__listen": '"no-such-host.invalid:7499"'})
                self.assert_one_message(node, "no-such-host.invalid:7499", f"change {listener}.listen")

    def test_slab_larger_than_memory(self):
        node = self.node(dram__capacity='"512TiB"')
        self.assert_one_message(node, "dram.capacity is 512TiB", "MiB of memory available",
                                "lower dram.capacity", str(node.file))

    def test_index_larger_than_memory(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        if processes.run("hadald", "--version", preexec_fn=limit).returncode != 0:
            self.skipTest("does not run with 4 GiB of addresses")  # as with a sanitizer
        # More than most machines have, and more than this process may have.
        for blocks in (1 << 28, 24 << 20):
            with self.subTest(blocks):
                node = self.node(index__max_blocks=str(blocks))
                done = processes.run("hadald", "--config", node.file, preexec_fn=limit)
                self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1), done.stderr)
                self.assertIn(f"index.max_blocks is {blocks} (", done.stderr)
                self.assertIn("lower dram.capacity, index.max_blocks or nvme.memtable", done.stderr)

    def test_nvme_parent_is_missing(self):
        path = self.directory / "no" / "nvme"
        self.assert_one_message(self.node(nvme__path=f'"{path}"'), f"nvme.path {path} cannot be created",
                                "parent must be an existing directory")

    def test_nvme_path_is_a_file(self):
        path = self.file("file", b"text")
        self.assert_one_message(self.node(nvme__path=f'"{path}"'), f"nvme.path {path} is not a directory", "name one")
        self.assertEqual(path.read_bytes(), b"text")

    def test_nvme_parent_is_a_file(self):
        path = self.file("file", b"text") / "nvme"
        self.assert_one_message(self.node(nvme__path=f'"{path}"'), f"nvme.path {path}", "parent must be")

    def test_nvme_path_is_read_only(self):
        path = pathlib.Path("/proc/sys/hadal")  # refuses root too
        self.assert_one_message(self.node(nvme__path=f'"{path}"'), f"nvme.path {path} cannot be created", "; ")
        self.assert_one_message(self.node(nvme__path='"/proc"'), "nvme.path /proc cannot be written", "; give it to")

    def test_nvme_directory_holds_other_files(self):
        path = self.directory / "other"
        path.mkdir()
        (path / "letter.txt").write_text("dear")
        self.assert_one_message(self.node(nvme__path=f'"{path}"'), str(path), "letter.txt", "use an empty directory")
        self.assertEqual(os.listdir(path), ["letter.txt"])

    def test_nvme_directory_of_another_version(self):
        node = self.nvme_node().start()
        self.assertEqual(node.stop(), 0)
        (self.directory / "nvme" / "HADAL_NVME_FORMAT").write_text("hadal nvme format 99\n")
        self.assert_one_message(node, "hadal nvme format 99", "hadal nvme format 2", "Use another directory")

    def test_nvme_directory_in_use(self):
        self.nvme_node().start()
        self.assert_one_message(self.nvme_node(), str(self.directory / "nvme"), "in use by another process")

    def test_nvme_disk_is_full(self):
        disk = small_disk(self)
        new, old = disk / "new", disk / "old"
        node = self.node(nvme__path=f'"{old}"', nvme__capacity='"16MiB"', nvme__memtable='"1MiB"').start()
        self.assertEqual(node.stop(), 0)
        fill(disk)
        self.assert_one_message(self.node(nvme__path=f'"{new}"'), f"nvme.path {new} lies on a full file system", "0KiB",
                                "free space, or choose another nvme.path")
        self.assert_one_message(node, f"nvme.path {old} lies on a full file system")
        (disk / "ballast").unlink()
        node.start()

    def test_message_is_json_where_logs_are(self):
        code, lines = self.node(dram__capacity='"512TiB"', log__format='"json"').fails()
        self.assertEqual((code, len(lines)), (1, 1))
        event = json.loads(lines[0])
        self.assertEqual((event["level"], event["event"]), ("error", "cannot start"))
        self.assertIn("lower dram.capacity", event["reason"])


class CommandLineTest(processes.ProcessTest):
    def test_usage_is_two(self):
        for words in ([], ["--config"], ["--colour"], ["--config", "x", "y"]):
            with self.subTest(words):
                done = processes.run("hadald", *words)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn("hadald: ", done.stderr)
                self.assertIn("--check-config", done.stderr)  # the help

    def test_the_word_that_is_not_known_is_named(self):
        for words in (["frobnicate"], ["--config", "x", "frobnicate"]):
            done = processes.run("hadald", *words)
            self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
            self.assertIn("hadald: unknown argument 'frobnicate'\n", done.stderr)

    def test_help_and_version_are_zero(self):
        self.assertIn("--check-config", processes.run("hadald", "--help").stdout)
        self.assertRegex(processes.run("hadald", "--version").stdout, r"^hadald \d+\.\d+\.\d+\n$")

    def test_check_config(self):
        good = self.node().file
        done = processes.run("hadald", "--config", good, "--check-config")
        self.assertEqual((done.returncode, done.stderr, done.stdout), (0, "", f"{good}: good\n"))
        bad = self.file("bad.toml", b"[dram]\n# too small\ncapacity = \"5KiB\"\n")
        for words in (["--check-config"], []):
            done = processes.run("hadald", "--config", bad, *words)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertRegex(done.stderr, "^hadald: " + re.escape(f'{bad}:3: dram.capacity is "5KiB"; allowed is '))
            self.assertEqual(done.stderr.count("\n"), 1)

    def test_missing_file(self):
        for path in (self.directory / "none.toml", self.directory):
            done = processes.run("hadald", "--config", path)
            self.assertEqual(done.returncode, 2)
            self.assertEqual(done.stderr.count("\n"), 1)
            self.assertIn(str(path), done.stderr)


if __name__ == "__main__":
    processes.main()
