// The entry that libFuzzer calls. Built by the preset "fuzz", run by tests/fuzz/run.sh.

#include "tests/fuzz/decode_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  hadal::decode_fuzz_input(bytes, size);
  return 0;
}
