#!/usr/bin/env python3
"""Keeps docs/STYLE.md: include edges between folders, size limits, forbidden names and paths of one machine.

Reads the clang-formatted C++ as text: a definition begins in column 0 (or 2, inside a class) and its body
ends with a brace in that column. `--self-test` checks that every rule can fail.
"""

import pathlib
import re
import subprocess
import sys

LIMITS = {"header": 300, "source": 800, "function": 70, "kernel": 150, "methods": 15, "parameters": 4}
FOLDERS = ("proto", "common", "kernels", "transport", "storage", "service", "client")
EDGES = {
    "common": set(),
    "kernels": {"common"},
    "transport": {"common"},
    "storage": {"common"},
    "service": {"common", "storage", "transport", "proto"},
    "client": {"common", "kernels", "storage", "transport"},
    "client/cli": {"common", "kernels", "storage", "transport", "proto", "client"},
    "tests": set(FOLDERS) | {"tests", "bench"},
    "bench": set(FOLDERS) | {"bench"},
}
LIBRARY_HOMES = [
    (re.compile(r"^(ucp|ucs|uct)/"), re.compile(r"^(tests/)?transport/")),
    (re.compile(r"^rocksdb/"), re.compile(r"^storage/nvme_tier")),
    (re.compile(r"^(grpcpp|grpc|google/protobuf)/|\.pb\.h$"), re.compile(r"^(service|client/cli|tests|bench)/")),
    (re.compile(r"^(cuda|cublas)"), re.compile(r"^(kernels/|tests/kernels/cuda_|bench/bench_gpu)")),
]
SUFFIXES = (".h", ".cc", ".cu", ".cuh", ".py", ".sh", ".proto", ".cmake", ".toml", ".txt")
CONTROL = ("namespace", "class ", "struct ", "enum ", "union ", "using ", "typedef", "#", "//", "extern", "}",
           "static_assert", "HWY_", "TEST", "INSTANTIATE", "MATCHER", "BENCHMARK", "static constexpr", "inline constexpr")


def folder_of(path):
    if path.startswith("client/cli/"):
        return "client/cli"
    return path.split("/")[0]


def check_includes(path, lines):
    folder = folder_of(path)
    for number, line in enumerate(lines, 1):
        match = re.match(r'#include\s+["<]([^">]+)[">]', line)
        if not match or folder not in EDGES:
            continue
        target = match.group(1)
        for library, home in LIBRARY_HOMES:
            if library.search(target) and not home.search(path):
                yield f"{path}:{number}: includes {target}, which only {home.pattern} may"
        owner = target.split("/")[0]
        if owner in EDGES and owner not in EDGES[folder] | {folder.split("/")[0]}:
            yield f"{path}:{number}: {folder} includes {target}; it may include {sorted(EDGES[folder])}"


def split_parameters(text):
    depth, count = 0, 1
    for char in text:
        depth += char in "([{<"
        depth -= char in ")]}>"
        count += char == "," and depth == 0
    return count if text.strip() not in ("", "void") else 0


def signature(lines, start):
    """Text from a line to the brace or semicolon that ends its head, and the line where that is."""
    text, depth = "", 0
    for index in range(start, min(start + 40, len(lines))):
        line = re.sub(r'"(\\.|[^"\\])*"', '""', lines[index].split("//")[0])
        for char in line:
            depth += char == "("
            depth -= char == ")"
            if depth == 0 and char in "{;":
                return text + char, index
            text += char
        text += " "
    return text, start


def parameters_of(head):
    """The parameter list of a function head, or None where it is no function."""
    match = re.match(r"[^=()]*?([~\w]+|operator\S+)\(", head)
    if not match:
        return None
    depth = 0
    for index in range(match.end() - 1, len(head)):
        depth += head[index] == "("
        depth -= head[index] == ")"
        if depth == 0:
            return head[match.end():index]
    return None


def lines_in_classes(lines):
    """For each line, whether it is a member of a class or struct that begins in column 0."""
    inside = False
    for number, line in enumerate(lines):
        if line.startswith(("class ", "struct ")) and signature(lines, number)[0].endswith("{"):
            inside = True
        elif line.startswith("}"):
            inside = False
        yield inside


def check_functions(path, lines):
    in_class = list(lines_in_classes(lines))
    limit = LIMITS["kernel"] if path.endswith((".cu", ".cuh")) else LIMITS["function"]
    for start, line in enumerate(lines):
        indent = len(line) - len(line.lstrip(" "))
        code = line.strip()
        if indent not in (0, 2) or not code or code.startswith(CONTROL) or "(" not in code:
            continue
        if indent == 2 and not in_class[start]:
            continue
        head, head_end = signature(lines, start)
        parameters = parameters_of(head)
        if parameters is None or re.match(r"(if|for|while|switch|return|do|else|case|EXPECT_|ASSERT_)\b", code):
            continue
        if split_parameters(parameters) > LIMITS["parameters"] and not code.startswith("friend"):
            yield f"{path}:{start + 1}: {split_parameters(parameters)} parameters, at most {LIMITS['parameters']}"
        if not head.endswith("{") or lines[head_end].split("//")[0].rstrip().endswith("}"):
            continue
        closing = " " * indent + "}"
        for end in range(head_end, len(lines)):
            if lines[end].startswith(closing):
                if end - start + 1 > limit:
                    yield f"{path}:{start + 1}: function of {end - start + 1} lines, at most {limit}"
                break


def check_classes(path, lines):
    name, public, methods, begun = None, False, 0, 0
    for number, line in enumerate(lines, 1):
        match = re.match(r"(class|struct) (\w+)[^;]*\{$", line)
        if match:
            name, public, methods, begun = match.group(2), match.group(1) == "struct", 0, number
        elif name and line.startswith("}"):
            if methods > LIMITS["methods"]:
                yield f"{path}:{begun}: class {name} has {methods} public methods, at most {LIMITS['methods']}"
            name = None
        elif name and re.match(r" (public|private|protected):", line):
            public = line.strip() == "public:"
        elif name and public and re.match(r"  [^\s/#}]", line) and "(" in line:
            if not re.search(rf"~|\b{name}\(|operator|\busing\b|= delete|= default|std::function<", line):
                methods += 1


def check_text(path, lines):
    # An -inl.h is source that is compiled once for every instruction set.
    is_header = path.endswith((".h", ".cuh")) and not path.endswith("-inl.h")
    limit = LIMITS["header"] if is_header else LIMITS["source"]
    if len(lines) > limit:
        yield f"{path}: {len(lines)} lines, at most {limit}"
    for number, line in enumerate(lines, 1):
        if re.search(r"\bfriend\b.*\b(\w*[Tt]est\w*)", line) or "FRIEND_TEST" in line:
            yield f"{path}:{number}: friend for a test"
        if re.search(r"\b(secure_)?getenv\s*\(", line) and not path.endswith("main.cc"):
            yield f"{path}:{number}: getenv outside main"


def check_name(path):
    stem = pathlib.PurePath(path).name.lower()
    if re.search(r"_v\d+\.", stem):
        yield f"{path}: a file of a second version; replace the first"
    if re.search(r"(^|_)(utils?|managers?|misc|helpers?)(_|\.)", stem):
        yield f"{path}: says nothing about what it holds; name the thing"


def check_machine_paths(path, lines):
    """Sources name no folder of the machine they were written on; tests make their folders by library calls."""
    if path.endswith(".sh"):
        return
    for number, line in enumerate(lines, 1):
        match = re.search(r"(?<![\w./})*-])/(home|root|work|tmp)\b", line)
        if match:
            yield f"{path}:{number}: names {match.group(0)}, a folder of one machine"


def check_file(path, text):
    yield from check_name(path)
    yield from check_machine_paths(path, text.splitlines())
    if not path.endswith((".h", ".cc", ".cu", ".cuh")):
        return
    lines = text.splitlines()
    for check in (check_includes, check_functions, check_classes, check_text):
        yield from check(path, lines)


def self_test():
    """Each rule against a text that breaks it and one that does not."""
    long_body = "void f() {\n" + "  x();\n" * 80 + "}\n"
    member = "class C final {\n public:\n" + "".join("  " + line + "\n" for line in long_body.splitlines()) + "};\n"
    short_members = "class C {\n  C() : a_(1) {}\n" + "  int a();\n" * 80 + "  void b() { c(); }  // d\n};\n"
    folders = [f"/{name}" for name in ("home", "root", "work", "tmp")]
    methods = "class C {\n public:\n" + "".join(f"  int m{i}();\n" for i in range(16)) + "};\n"
    bad = {
        "storage/a.cc": '#include "transport/transport.h"\n', "common/a.cc": '#include "service/x.h"\n',
        "client/a.cc": '#include <grpcpp/grpcpp.h>\n', "storage/b.cc": "#include <rocksdb/db.h>\n",
        "service/c.cc": "#include <ucp/api/ucp.h>\n", "kernels/d.cc": long_body, "kernels/e.h": methods,
        "common/f.h": "void f(int a, int b, int c, int d, int e);\n", "common/g_v2.h": "", "common/utils.h": "",
        "common/h.cc": 'const char* x = getenv("A");\n', "common/i.h": "\n" * 301, "common/j.cc": "\n" * 801,
        "kernels/l.cc": member, "kernels/m.cc": "struct M {\n  void f(int a, int b, int c, int d, int e);\n};\n",
        "common/k.h": "class K {\n  friend class KTest;\n};\n",
    }
    good = {
        "service/a.cc": '#include "storage/tiered_store.h"\n#include "proto/admin.pb.h"\n',
        "storage/nvme_tier.cc": "#include <rocksdb/db.h>\n", "transport/ucx.cc": "#include <ucp/api/ucp.h>\n",
        "common/f.h": "void f(int a, std::map<int, int> b, int c, int d);\n",
        "client/llama/main.cc": 'auto x = getenv("A");\n', "kernels/d.cc": long_body.replace("  x();\n", "", 20),
    }
    bad |= {f"tests/n{i}.py": f'open("{folder}/x")\n' for i, folder in enumerate(folders)}
    bad |= {f"common/o{i}.cc": f'const char* o = "{folder}";\n' for i, folder in enumerate(folders)}
    good |= {"deploy/p.sh": f"cd {folders[2]}\n", "tests/q.py": f'path = f"{{folder}}{folders[2]}/x"\n',
             "service/r.cc": f'get("http://host{folders[0]}/x");\n', "kernels/s.cc": short_members}
    for path, text in bad.items():
        if not list(check_file(path, text)):
            yield f"self-test: nothing was said about {path}: {text[:60]!r}"
    for path, text in good.items():
        yield from (f"self-test: {said}" for said in check_file(path, text))


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    if "--self-test" in sys.argv:
        said = list(self_test())
    else:
        # Git refuses a clone of another user, as containers mount it, unless told so.
        names = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others",
                                "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True)
        names = names.stdout.split()
        said = []
        for name in sorted(set(names)):
            path = root / name
            if path.is_file() and path.suffix in SUFFIXES:
                said += check_file(name, path.read_text())
    print("\n".join(said) or "style: clean")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
