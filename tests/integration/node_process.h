#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "common/node_address.h"

namespace hadal {

// A store node process. Killed, and waited for, when this goes.
class NodeProcess {
 public:
  // Runs `store_node PORT TRANSPORT` and waits until it says its port; null where it does not.
  // Port 0: a free one.
  static std::unique_ptr<NodeProcess> start(const std::string& binary, uint16_t port,
                                            const std::string& transport);
  // Runs a command that will listen on `port`, and does not wait for that.
  static std::unique_ptr<NodeProcess> start_command(const std::vector<std::string>& command,
                                                    uint16_t port);
  // A TCP port of this machine that nobody listens on now; 0 where there is none.
  static uint16_t free_port();
  ~NodeProcess();

  void signal(int number);
  void kill_and_wait();

  uint16_t port() const { return port_; }
  NodeAddress address() const { return {"127.0.0.1", port_, 1.0}; }

 private:
  NodeProcess(pid_t pid, int input, uint16_t port) : pid_(pid), input_(input), port_(port) {}

  pid_t pid_;
  int input_;  // its standard input: it ends by itself when we do
  uint16_t port_;
};

}  // namespace hadal
