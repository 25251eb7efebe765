#!/usr/bin/env python3
"""The documents name every setting, metric and call of the real binaries, and none that does not exist.

Nor do they name a file of this tree that does not exist.
"""

import json
import pathlib
import re
import shlex
import sys
import tomllib
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "testing"))
import processes  # noqa: E402

DOCS = processes.ROOT / "docs"


def rows(text, width):
    """Cells of the table rows whose first cell is one name in backticks."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if len(cells) == width and re.fullmatch(r"`[\w.]+`", cells[0]):
            yield [cells[0].strip("`"), *cells[1:]]


class FilesTest(unittest.TestCase):
    def documents(self):
        return [processes.ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

    def test_every_relative_link_leads_to_a_file(self):
        for document in self.documents():
            for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
                if "://" not in link:
                    with self.subTest(document=document.name, link=link):
                        self.assertTrue((document.parent / link.split("#")[0]).exists())

    def test_every_path_in_backticks_is_there(self):
        for document in self.documents():
            for path in re.findall(r"`([\w.-]+/[\w./*-]*)`", document.read_text()):
                if (processes.ROOT / path.split("/")[0]).is_dir() and not path.startswith("build/"):
                    with self.subTest(document=document.name, path=path):
                        self.assertTrue(list(processes.ROOT.glob(path)))

    def test_the_readme_links_every_document(self):
        linked = set(re.findall(r"\]\(docs/([^)\s]+)\)", self.documents()[0].read_text()))
        self.assertEqual(linked, {str(document.relative_to(DOCS)) for document in self.documents()[1:]})


class ConfigurationTest(processes.ProcessTest):
    def setUp(self):
        super().setUp()
        self.deployed = processes.ROOT / "deploy" / "hadald.toml"
        self.defaults = {f"{section}.{key}": value for section, body in tomllib.loads(self.deployed.read_text()).items()
                         for key, value in body.items()}

    def test_document_names_every_key_with_its_default(self):
        node = self.node().start()
        settings = node.ctl_json("config")["settings"]
        documented = list(rows((DOCS / "configuration.md").read_text(), 5))
        self.assertEqual([row[0] for row in documented], [setting["key"] for setting in settings])
        for (key, kind, default, _, meaning), setting in zip(documented, settings):
            with self.subTest(key):
                self.assertIn(kind, ("string", "integer", "number", "size", "duration", "address"))
                self.assertTrue(meaning)
                shown = default.strip("`").replace('""', "")
                self.assertEqual(shown, str(self.defaults[key]))
                if not setting["changed"]:
                    self.assertEqual(shown, setting["value"])

    def test_deployed_file_holds_every_key_with_its_default(self):
        done = processes.run("hadald", "--config", self.deployed, "--check-config")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        node = self.node()
        # Its own ports may be in use.
        node.file.write_text(re.sub(r"127\.0\.0\.1:74\d\d", "127.0.0.1:0", self.deployed.read_text()).replace(
            'capacity = "1GiB"', 'capacity = "64MiB"'))
        node.start()
        settings = node.ctl_json("config")["settings"]
        self.assertEqual([setting["key"] for setting in settings if setting["changed"]],
                         ["data.listen", "admin.listen", "metrics.listen", "dram.capacity"])
        self.assertEqual({setting["key"] for setting in settings}, set(self.defaults))

    def test_every_key_of_the_deployed_file_has_a_comment(self):
        before = ""
        for line in self.deployed.read_text().splitlines():
            if re.match(r"\w+ = ", line):
                self.assertRegex(before, "^# ", line)
            before = line

    def test_document_names_the_options_of_the_binary(self):
        text = (DOCS / "configuration.md").read_text()
        options = set(re.findall(r"--[a-z-]+", processes.run("hadald", "--help").stdout))
        self.assertEqual(set(re.findall(r"--[a-z-]+", re.sub(r"\|[-|]+\|", "", text))), options)


class MetricsTest(processes.ProcessTest):
    def test_document_names_every_metric(self):
        node = self.nvme_node().start()
        node.scrape()  # the endpoint's own metrics begin with the first one
        scrape = node.scrape()
        types = dict(re.findall(r"(?m)^# TYPE (\S+) (\S+)$", scrape))
        labels = {name: set() for name in types}
        for name, inside in re.findall(r"(?m)^(\w+)\{(.*)\} \S+$", scrape):
            labels[name] |= set(re.findall(r'(\w+)="', inside))
        documented = {row[0]: row for row in rows((DOCS / "metrics.md").read_text(), 5)}
        self.assertEqual(set(documented), set(types))
        for name, row in documented.items():
            with self.subTest(name):
                self.assertEqual(row[1], types[name])
                self.assertEqual(set(re.findall(r"`(\w+)`", row[2])), labels[name])
                self.assertTrue(row[3])
        mentioned = set(re.findall(r"\bhadal_[a-z_]+[a-z]\b", (DOCS / "metrics.md").read_text()))
        self.assertEqual(mentioned, {name for name in types if name.startswith("hadal_")})

    def test_every_metric_has_help(self):
        scrape = self.node().start().scrape()
        helped = dict(re.findall(r"(?m)^# HELP (\S+) (.+)$", scrape))
        self.assertEqual(set(helped), set(re.findall(r"(?m)^# TYPE (\S+)", scrape)))


class AdminApiTest(processes.ProcessTest):
    TEXT = (DOCS / "admin_api.md").read_text()

    def test_document_names_every_call_in_a_section(self):
        calls = re.findall(r"rpc (\w+)\(", (processes.ROOT / "proto" / "admin.proto").read_text())
        sections = re.findall(r"(?m)^## (\w+)$", self.TEXT)
        self.assertEqual({name for name in sections if name not in ("Errors", "Health", "Versions")}, set(calls))
        self.assertIn("package hadal.admin.v1;", (processes.ROOT / "proto" / "admin.proto").read_text())

    def shape(self, value):
        """Keys and kinds of values; of a list the first entry's."""
        if isinstance(value, dict):
            return {key: self.shape(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.shape(value[0])] if value else []
        return type(value).__name__

    def test_examples_have_the_shape_of_real_answers(self):
        node = self.nvme_node().start()
        file = self.file("prompt.bin", b"x" * 1000)
        key = node.ctl_json("put", file)["files"][0]["key"]
        examples = re.findall(r"`hadalctl ([^`]+ --json)`[^`]*\n```json\n(.*?)```", self.TEXT, re.DOTALL)
        self.assertEqual([command.split()[0] for command, _ in examples],
                         ["status", "tiers", "lookup", "blocks", "evict", "config", "put", "get"])
        # Evicting last, so that the others find the block.
        for command, example in sorted(examples, key=lambda pair: pair[0].startswith("evict")):
            words = {"KEY...": key, "FILE...": str(file), "NAME": "prompt.bin", "FILE": str(self.directory / "out")}
            name, *rest = [words.get(word, word) for word in shlex.split(command) if word != "--json"]
            with self.subTest(command):
                self.assertEqual(self.shape(json.loads(example)), self.shape(node.ctl_json(name, *rest)))


if __name__ == "__main__":
    processes.main()
