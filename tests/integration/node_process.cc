#include "tests/integration/node_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

namespace hadal {
namespace {

// The port it prints on a line of its own, past lines that UCX may print before; 0 after 10 seconds
// without a byte or at its end.
uint16_t read_port(int output) {
  std::string text;
  char byte;
  pollfd ready = {output, POLLIN, 0};
  while (poll(&ready, 1, 10000) == 1 && read(output, &byte, 1) == 1) {
    if (byte != '\n') {
      text += byte;
    } else if (const int port = atoi(text.c_str()); port > 0) {
      return static_cast<uint16_t>(port);
    } else {
      text.clear();
    }
  }
  return 0;
}

struct Spawned {
  pid_t pid = 0;
  int input = -1;
};

// `output`: where to put the reading end of its standard output; null leaves that alone.
Spawned spawn(const std::vector<std::string>& command, int* output) {
  std::vector<char*> arguments;
  for (const std::string& text : command) arguments.push_back(const_cast<char*>(text.c_str()));
  arguments.push_back(nullptr);
  int input[2];
  int printed[2] = {-1, -1};
  if (pipe2(input, O_CLOEXEC) != 0) return {};
  if (output != nullptr && pipe2(printed, O_CLOEXEC) != 0) return {};
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(input[0], STDIN_FILENO);
    if (output != nullptr) dup2(printed[1], STDOUT_FILENO);
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  close(input[0]);
  if (output != nullptr) {
    close(printed[1]);
    *output = printed[0];
  }
  return {pid, input[1]};
}

}  // namespace

std::unique_ptr<NodeProcess> NodeProcess::start(const std::string& binary, uint16_t port,
                                                const std::string& transport) {
  int output = -1;
  const Spawned spawned = spawn({binary, std::to_string(port), transport}, &output);
  const uint16_t got = read_port(output);
  close(output);
  auto process = std::unique_ptr<NodeProcess>(new NodeProcess(spawned.pid, spawned.input, got));
  return got == 0 ? nullptr : std::move(process);
}

std::unique_ptr<NodeProcess> NodeProcess::start_command(const std::vector<std::string>& command,
                                                        uint16_t port) {
  const Spawned spawned = spawn(command, nullptr);
  if (spawned.pid <= 0) return nullptr;
  return std::unique_ptr<NodeProcess>(new NodeProcess(spawned.pid, spawned.input, port));
}

uint16_t NodeProcess::free_port() {
  // Below those that the kernel gives to connections: one of these might come while a node is down.
  constexpr int kFirst = 10000, kCount = 20000;
  static int next = getpid() * 97;
  for (int attempt = 0; attempt < kCount; ++attempt) {
    const auto port = static_cast<uint16_t>(kFirst + next++ % kCount);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const bool bound = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    close(fd);
    if (bound) return port;
  }
  return 0;
}

void NodeProcess::signal(int number) {
  if (pid_ <= 0) return;
  kill(pid_, number);
  // Its threads on other cores run on for a moment: not stopped before the kernel says so.
  if (number == SIGSTOP) waitpid(pid_, nullptr, WUNTRACED);
}

void NodeProcess::kill_and_wait() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = 0;
}

NodeProcess::~NodeProcess() {
  kill_and_wait();
  close(input_);
}

}  // namespace hadal
