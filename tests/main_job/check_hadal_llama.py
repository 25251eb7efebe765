#!/usr/bin/env python3
"""hadal-llama with bad input, and with a node that is absent, frozen or well. Run as `TEST.py BIN_DIR MODEL`."""

import json
import os
import pathlib
import signal
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "testing"))
import processes  # noqa: E402

MODEL = None
TEXT = b"The Mariana Trench is the deepest part of the ocean. Its hadal zone begins at six kilometres.\n" * 4
TIMEOUT_MS = 1000
SLACK_MS = 2000  # of a busy machine


class BadInputTest(processes.ProcessTest):
    def setUp(self):
        super().setUp()
        self.text = self.file("text.txt", TEXT)

    def refused(self, code, said, command, *words):
        """One line that begins with the program's name and has every text of `said`."""
        done = processes.run("hadal-llama", command, "--model", MODEL, *words)
        self.assertEqual((done.returncode, done.stdout), (code, ""), done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertTrue(done.stderr.startswith("hadal-llama: "), done.stderr)
        for text in said:
            self.assertIn(text, done.stderr)

    def test_document(self):
        absent = self.directory / "absent.txt"
        empty = self.file("empty.txt", b"")
        blank = self.file("blank.txt", b" \n\t\n")
        for code, path, said in ((2, self.directory, "is a directory"), (1, absent, "cannot read"),
                                 (2, empty, "is empty"), (2, blank, "is empty"), (2, "/dev/zero", "is longer than")):
            with self.subTest(path=path):
                self.refused(code, [f"'{path}'", said], "ask", "--document", path, "--question", "Why?")

    @unittest.skipIf(os.geteuid() == 0, "root reads every file")
    def test_unreadable_document(self):
        self.text.chmod(0)
        self.refused(1, [f"'{self.text}'", "cannot read"], "ask", "--document", self.text, "--question", "Why?")

    def test_question_and_numbers_of_ask(self):
        ask = ("ask", "--document", self.text, "--question")
        self.refused(2, ["--question is empty"], *ask, " ")
        for option, values in (("--answer-tokens", ("0", "-1", "1048577", "many", "9999999999")),
                               ("--context-tokens", ("0", "255", "-1", "1048577", "4k", "9999999999")),
                               ("--block-tokens", ("0", "65537")), ("--timeout-ms", ("0", "600001"))):
            for value in values:
                with self.subTest(option=option, value=value):
                    self.refused(2, [option], *ask, "Why?", f"{option}={value}")
        self.refused(2, ["--context-tokens is 256"], *ask, "Why?", "--context-tokens", 256, "--answer-tokens", 256)

    def test_case(self):
        for value in ("abc:9999999999", "abc:8", "8:abc", "8:", ":8", "0:8", "8:0", "-8:8", "8:8x", "8 8:8",
                      "8:9999999999", "18446744073709551617:8"):
            with self.subTest(value=value):
                case = f"{self.text}:{value}"
                self.refused(2, [case, "is not a number of tokens"], "quality", "--case", case)
        for case in ("text", "text:8", ":8:8", "::"):
            with self.subTest(case=case):
                self.refused(2, ["FILE:PREFIX_TOKENS:CONTINUED_TOKENS"], "quality", f"--case={case}")
        self.refused(2, ["is a directory"], "quality", "--case", f"{self.directory}:8:8")
        self.refused(1, ["cannot read"], "quality", "--case", f"{self.directory}/absent:8:8")
        self.refused(2, ["--context-tokens is 4096"], "quality", "--case", f"{self.text}:4096:1")

    def test_names_that_are_none(self):
        ask = ("ask", "--document", self.text, "--question", "Why?")
        self.refused(2, ["k9v9"], *ask, "--nodes", "127.0.0.1:1", "--codec", "k9v9")
        self.refused(2, ["--no-such"], *ask, "--no-such")
        self.refused(2, ["--document"], "ask", "--question", "Why?")


class NodeTest(processes.ProcessTest):
    """The model answers whatever becomes of the node, and says the same as without one."""

    def ask(self, *words):
        document = self.file("text.txt", TEXT)
        start = time.monotonic()
        done = processes.run("hadal-llama", "ask", "--model", MODEL, "--document", document, "--question",
                             "Where does the hadal zone begin?", "--answer-tokens", 4, "--block-tokens", 16,
                             "--context-tokens", 512, "--transport", "tcp", "--timeout-ms", TIMEOUT_MS, *words)
        took_ms = (time.monotonic() - start) * 1000
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout.splitlines()[-1]), took_ms  # UCX may warn in lines before it

    def check_without_node(self, address):
        alone, alone_ms = self.ask()
        answer, took_ms = self.ask("--nodes", address, "--store")
        self.assertTrue(answer["answer"])
        self.assertEqual(answer["answer"], alone["answer"])
        self.assertEqual((answer["reused_tokens"], answer["put"]["tokens"]), (0, 0))
        self.assertTrue(answer["get"]["first_failure"])
        self.assertTrue(answer["put"]["first_failure"])
        for name in ("get_decoded_ms", "put_ms"):
            self.assertLess(answer[name], TIMEOUT_MS + SLACK_MS, name)
        # One lookup and one put may wait; ending must not wait for the node.
        self.assertLess(took_ms, alone_ms + 2 * TIMEOUT_MS + 2 * SLACK_MS)

    def test_absent(self):
        self.check_without_node(f"127.0.0.1:{processes.free_port()}")

    def test_frozen(self):
        node = self.node().start()
        node.signal(signal.SIGSTOP)
        try:
            self.check_without_node(node.address["data"])
        finally:
            node.signal(signal.SIGCONT)
        self.assertEqual(node.stop(), 0)

    def test_well(self):
        node = self.node().start()
        first, _ = self.ask("--nodes", node.address["data"], "--store")
        self.assertEqual((first["reused_tokens"], first["put"]["tokens"]), (0, first["document_tokens"]))
        second, _ = self.ask("--nodes", node.address["data"])
        self.assertEqual(second["reused_tokens"], first["document_tokens"])
        self.assertTrue(second["answer"])


if __name__ == "__main__":
    MODEL = sys.argv.pop(2)
    processes.main()
