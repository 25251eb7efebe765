#!/usr/bin/env python3
"""hadalctl against a real hadald: every command, for people and as JSON, and every way to be wrong."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "testing"))
import processes  # noqa: E402

ABSENT = "0f" * 32
ADMIN_COMMANDS = ("status", "tiers", "config", "blocks", "lookup", "evict")


class WithNodeTest(processes.ProcessTest):
    """One node for all tests of the class; each begins with an empty one."""

    @classmethod
    def setUpClass(cls):
        cls.shared = processes.tempfile.mkdtemp(prefix="hadal-")
        folder = pathlib.Path(cls.shared)
        cls.nodes = processes.Hadald(folder, nvme__path=f'"{folder / "nvme"}"', nvme__capacity='"256MiB"',
                                     nvme__memtable='"8MiB"', nvme__flush_interval='"100ms"').start()

    @classmethod
    def tearDownClass(cls):
        cls.nodes.kill()
        processes.shutil.rmtree(cls.shared, ignore_errors=True)

    def setUp(self):
        super().setUp()
        self.nodes.ctl_json("evict", "--all")

    def text(self, command, *words):
        done = self.nodes.ctl(command, *words)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def refused(self, code, command, *words):
        """The message, which is for people with --json too."""
        for extra in ([], ["--json"]):
            done = self.nodes.ctl(command, *extra, *words)
            self.assertEqual((done.returncode, done.stdout), (code, ""), done.stderr)
            self.assertTrue(done.stderr.startswith("hadalctl: "), done.stderr)
        return done.stderr

    def put(self, *files):
        return self.nodes.ctl_json("put", *files)["files"]


class AdminTest(WithNodeTest):
    def test_status(self):
        answer = self.nodes.ctl_json("status")
        self.assertEqual(list(answer), ["node", "version", "uptime_seconds", "transport", "data_address", "peers",
                                        "draining", "store", "transport_stats"])
        self.assertEqual(answer["data_address"], self.nodes.address["data"])
        self.assertIs(answer["draining"], False)
        self.assertIsInstance(answer["store"]["puts_stored"], int)
        for word in ("hadald", self.nodes.address["data"], "lookups", "persisted"):
            self.assertIn(word, self.text("status"))

    def test_tiers(self):
        tiers = self.nodes.ctl_json("tiers")["tiers"]
        self.assertEqual([tier["tier"] for tier in tiers], ["dram", "nvme"])
        self.assertEqual([tier["capacity_bytes"] for tier in tiers], [64 << 20, 256 << 20])
        lines = self.text("tiers").splitlines()
        self.assertEqual([line.split()[0] for line in lines], ["TIER", "dram", "nvme"])

    def test_tiers_show_the_resident_ratio_of_each(self):
        self.put(self.file("ratio", b"x" * 1_000_000))
        self.eventually(lambda: self.nodes.ctl_json("tiers")["tiers"][1]["raw_bytes"] >= 1_000_000, "it is on NVMe")
        dram = self.nodes.ctl_json("tiers")["tiers"][0]
        self.assertEqual(dram["raw_bytes"], self.nodes.metrics()['hadal_tier_raw_bytes{tier="dram"}'])
        self.assertEqual(float(self.text("tiers").splitlines()[1].split()[4]),
                         round(dram["raw_bytes"] / dram["used_bytes"], 2))

    def test_config(self):
        answer = self.nodes.ctl_json("config")
        self.assertEqual(answer["file"], str(self.nodes.file))
        settings = {setting["key"]: setting for setting in answer["settings"]}
        self.assertEqual(settings["dram.capacity"], {"key": "dram.capacity", "value": "64MiB", "changed": True})
        self.assertIs(settings["log.level"]["changed"], False)
        self.assertRegex(self.text("config"), r"(?m)^\* dram\.capacity +64MiB$")

    def test_blocks_lookup_and_evict(self):
        self.assertEqual(self.nodes.ctl_json("blocks"), {"blocks": []})
        keys = [put["key"] for put in self.put(*[self.file(f"f{i}", b"x" * 1000) for i in range(3)])]
        blocks = self.nodes.ctl_json("blocks")["blocks"]
        self.assertEqual(sorted(block["key"] for block in blocks), sorted(keys))
        self.assertEqual(list(blocks[0]), ["key", "state", "tier", "bytes", "dropped_planes", "key_planes",
                                           "value_planes", "generation", "persisted", "pins", "parent", "route",
                                           "token_digest"])
        self.assertEqual(len(self.nodes.ctl_json("blocks", "--at-most", "2")["blocks"]), 2)
        self.assertEqual(len(self.text("blocks").splitlines()), 4)

        found = self.nodes.ctl_json("lookup", ABSENT, keys[0].upper())["blocks"]
        self.assertEqual([block["state"] for block in found], ["BLOCK_STATE_ABSENT", "BLOCK_STATE_PRESENT"])
        self.assertEqual([block["key"] for block in found], [ABSENT, keys[0]])
        self.assertGreater(found[1]["bytes"], 1000)
        self.assertIn("present", self.text("lookup", keys[0]))
        self.assertIn("absent", self.text("lookup", ABSENT))

        self.assertEqual(self.nodes.ctl_json("evict", keys[0], ABSENT), {"evicted_blocks": 1})
        self.assertEqual(self.text("evict", keys[1]), "evicted 1 blocks\n")
        self.assertEqual(self.nodes.ctl_json("evict", "--all"), {"evicted_blocks": 1})
        self.assertEqual(self.text("evict", "--all"), "evicted 0 blocks\n")

    def test_key_that_is_none(self):
        for key in ("abc", "g" * 64, "0" * 65, "\u00e9" * 32):
            for command in ("lookup", "evict"):
                self.assertIn(f"block key is '{key}'; a key is 64 hexadecimal digits", self.refused(2, command, key))

    def test_too_many_keys(self):
        self.assertIn("4097; at most 4096", self.refused(2, "lookup", *[ABSENT] * 4097))


class FileTest(WithNodeTest):
    def get(self, name):
        out = self.directory / "out"
        answer = self.nodes.ctl_json("get", "--out", out, "--", name)
        self.assertEqual(list(answer), ["name", "key", "file", "bytes", "encoded_bytes", "tier"])
        content = out.read_bytes()
        self.assertEqual(answer["bytes"], len(content))
        out.unlink()
        return content

    def test_round_trip_byte_for_byte(self):
        contents = {"one": b"\0", "1023": os.urandom(1023), "several MiB": os.urandom((5 << 20) + 7),
                    "\u00fcber \u6df1\u6d77 'quoted\".bin": os.urandom(4096), "-dash": b"dash",
                    "status": b"named as a command", "new\nline": b"nl"}
        files = [self.file(name, content) for name, content in contents.items()]
        for put, (name, content) in zip(self.put(*files), contents.items()):
            self.assertEqual(list(put), ["name", "key", "bytes", "encoded_bytes", "wire_bytes", "duplicate"])
            self.assertEqual((put["name"], put["bytes"], put["duplicate"]), (name, len(content), False))
            self.assertEqual(put["wire_bytes"], put["encoded_bytes"])
            self.assertEqual(self.get(name), content)
            self.assertEqual(self.nodes.ctl_json("lookup", put["key"])["blocks"][0]["bytes"], put["encoded_bytes"])

    def test_name_that_is_not_utf8(self):
        path = os.path.join(os.fsencode(self.directory), b"\xff\xfe")
        with open(path, "wb") as file:
            file.write(b"bytes")
        self.assertEqual(self.put(os.fsdecode(path))[0]["bytes"], 5)

    def test_second_put_is_a_duplicate_and_moves_no_payload(self):
        file = self.file("twice", os.urandom(1 << 20))
        self.assertIn("put twice, 1048576 bytes, key ", self.text("put", file))
        before = self.nodes.metrics()
        self.assertEqual([(put["duplicate"], put["wire_bytes"]) for put in self.put(file)], [(True, 0)])
        self.assertIn("was stored already", self.text("put", file))
        after = self.nodes.metrics()
        grown = {name: after[name] - before[name] for name in before}
        self.assertLess(grown["hadal_transport_payload_received_bytes_total"], 4096)  # keys and names only
        self.assertEqual(grown["hadal_puts_duplicate_total"], 2)
        self.assertEqual(grown["hadal_lookup_keys_total"], 0)

    def test_another_file_of_the_same_name_is_refused(self):
        key = self.put(self.file("name", b"x" * 1000))[0]["key"]
        message = self.refused(1, "put", self.file("name", b"y" * 5000))
        self.assertIn(f"another file is stored as name; rename yours, or evict it first: hadalctl evict {key}", message)
        self.assertEqual(self.get("name"), b"x" * 1000)
        (self.directory / "sub").mkdir()
        twin = self.file("sub/name", b"z")
        self.assertIn("same base name, name", self.refused(2, "put", self.directory / "name", twin))

    def test_from_nvme(self):
        file = self.file("cold", os.urandom(3 << 20))
        self.put(file)
        self.eventually(lambda: self.nodes.metrics()["hadal_persisted_blocks"] == 1, "the file is persisted")
        self.nodes.kill()
        self.nodes.start()
        self.assertIn("got cold from nvme, 3145728 bytes", self.text("get", "cold", "--out", self.directory / "out"))
        self.assertEqual((self.directory / "out").read_bytes(), file.read_bytes())

    def test_files_that_cannot_be_stored(self):
        self.assertIn("empty: empty; at least 1 byte", self.refused(2, "put", self.file("empty", b"")))
        large = self.file("large", b"")
        os.truncate(large, (2 << 30) + 1)
        self.assertIn("large: 2147483649 bytes; at most 2147479551", self.refused(2, "put", large))
        self.assertIn("none: No such file or directory", self.refused(1, "put", self.directory / "none"))
        self.assertIn("not a regular file", self.refused(1, "put", self.directory))
        self.refused(1, "put", self.file("good", b"good"), self.directory / "none")
        self.assertEqual(self.nodes.ctl_json("blocks"), {"blocks": []})

    def test_file_that_does_not_fit_the_slab(self):
        large = self.file("large", b"")
        os.truncate(large, 80 << 20)
        self.assertIn("no room for a block", self.refused(1, "put", large))

    def test_name_that_nobody_has(self):
        out = self.file("out", b"as it was")
        self.assertIn("nothing: no node has it; put it first", self.refused(1, "get", "nothing", "--out", out))
        self.assertEqual(out.read_bytes(), b"as it was")

    def test_out_that_cannot_be_written(self):
        self.put(self.file("name", b"content"))
        out = self.directory / "no" / "out"
        self.assertIn(f"{out}: cannot be written", self.refused(1, "get", "name", "--out", out))
        for out in ("/dev/null", self.directory):
            self.assertIn(f"--out {out} is not a regular file", self.refused(2, "get", "name", "--out", out))
        self.assertTrue(pathlib.Path("/dev/null").is_char_device())
        self.assertEqual(os.listdir(self.directory), ["name"])

    def test_json_stays_one_object_whatever_the_transport_prints(self):
        file = self.file("name", b"content")
        for transport in ("auto", "tcp"):
            answer = self.nodes.ctl("put", "--json", "--transport", transport, file)
            self.assertEqual(len(json.loads(answer.stdout)["files"]), 1)
            self.assertEqual(answer.stdout.count("\n"), 1)

    def test_answer_that_cannot_be_written(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([processes.BIN / "hadalctl", "status", "--admin", self.nodes.address["admin"]],
                                  stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot be written to standard output", done.stderr)


class AbsentNodeTest(processes.ProcessTest):
    def commands(self):
        file = self.file("file", b"x")
        rest = {"lookup": [ABSENT], "evict": ["--all"], "put": [file], "get": ["file", "--out", self.directory / "o"]}
        for command in (*ADMIN_COMMANDS, "put", "get"):
            yield command, rest.get(command, [])

    def assert_away(self, address):
        for command, words in self.commands():
            option = "--nodes" if command in ("put", "get") else "--admin"
            begin = time.monotonic()
            done = processes.run("hadalctl", command, option, address, "--json", "--timeout", "1", *words)
            with self.subTest(command):
                self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
                self.assertIn(address, done.stderr)
                self.assertIn("is hadald running", done.stderr)
                self.assertLess(time.monotonic() - begin, 10)

    def test_nobody_listens(self):
        self.assert_away(f"127.0.0.1:{processes.free_port()}")

    def test_somebody_listens_and_says_nothing(self):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(16)
            self.assert_away(f"127.0.0.1:{silent.getsockname()[1]}")


class UsageTest(processes.ProcessTest):
    def test_usage_errors_are_two(self):
        for words in ([], ["nothing"], ["status", "extra"], ["status", "--colour"], ["lookup"], ["evict"], ["put"],
                      ["evict", "--all", ABSENT], ["get", "name"], ["get", "--out", "x"], ["blocks", "--at-most", "0"],
                      ["blocks", "--at-most", "10001"], ["status", "--timeout", "0"], ["status", "--timeout", "x"],
                      ["put", "--transport", "rdma", "x"], ["status", "tiers"], ["status", "--admin", "nowhere"],
                      ["put", "--nodes", "nowhere", self.file("file", b"x")],
                      ["get", "name", "--out", "x", "--nodes", "a:1,a:1"]):
            with self.subTest(words):
                done = processes.run("hadalctl", *words)
                self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
                self.assertTrue(done.stderr.startswith("hadalctl: "), done.stderr)

    def test_the_word_that_is_no_subcommand_is_named(self):
        for words in (["frobnicate"], ["frobnicate", "x"]):
            done = processes.run("hadalctl", *words)
            self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
            self.assertIn("hadalctl: 'frobnicate' is no subcommand\n", done.stderr)

    def test_help_and_version_are_zero(self):
        text = processes.run("hadalctl", "--help").stdout
        for command in (*ADMIN_COMMANDS, "put", "get"):
            self.assertIn(command, text)
            self.assertIn("--json", processes.run("hadalctl", command, "--help").stdout)
        self.assertRegex(processes.run("hadalctl", "--version").stdout, r"^hadalctl \d+\.\d+\.\d+\n$")


if __name__ == "__main__":
    processes.main()
