#!/usr/bin/env python3
"""Says which machine code a library of kernels has, and fails where an architecture is missing.

cuda_cubins_test.py LIBRARY ARCHITECTURE...: reads the fat binaries themselves, so it needs no tools of CUDA.
"""

import struct
import sys

FATBIN_MAGIC = struct.pack("<I", 0xBA55ED50)
KIND_CUBIN = 2
FILES = 5  # kernels/cuda/*.cu


def cubins_of(image):
    """The architectures of each fat binary in the image: one of every object file with kernels."""
    at = image.find(FATBIN_MAGIC)
    while at >= 0:
        header_bytes, body_bytes = struct.unpack_from("<HQ", image, at + 6)
        entry, end, found = at + header_bytes, at + header_bytes + body_bytes, set()
        while entry < end:
            kind, _, entry_header_bytes, entry_bytes = struct.unpack_from("<HHIQ", image, entry)
            if kind == KIND_CUBIN:
                found.add(struct.unpack_from("<I", image, entry + 28)[0])
            entry += entry_header_bytes + entry_bytes
        yield found
        at = image.find(FATBIN_MAGIC, end)


def main():
    with open(sys.argv[1], "rb") as library:
        binaries = [found for found in cubins_of(library.read()) if found]
    wanted = {int(name) for name in sys.argv[2:]}
    for found in binaries:
        print("cubins for sm_" + ", sm_".join(map(str, sorted(found))))
    if len(binaries) < FILES or not wanted or any(wanted - found for found in binaries):
        print(f"wanted in each of {FILES} files of kernels: {sorted(wanted)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
