// A store node as a process of its own, to be stopped, killed and restarted by tests:
// `store_node PORT TRANSPORT`. Prints the port it listens on and runs until its standard input
// closes.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "tests/client/test_node.h"

int main(int argc, char** argv) {
  hadal::TestNodeConfig config;
  config.slab_bytes = 256u << 20;
  config.port = static_cast<uint16_t>(argc > 1 ? atoi(argv[1]) : 0);
  if (argc > 2) config.tls = argv[2];
  const auto node = hadal::TestNode::start(config);
  if (!node.ok()) {
    fprintf(stderr, "store_node: %s\n", node.status().ToString().c_str());
    return 1;
  }
  printf("%d\n", (*node)->address().port);
  fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  return 0;
}
