#include "tests/integration/node_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

namespace hadal {
namespace {

// The port it prints, or 0 after 10 seconds or at its end.
uint16_t read_port(int output) {
  std::string text;
  char byte;
  pollfd ready = {output, POLLIN, 0};
  while (poll(&ready, 1, 10000) == 1 && read(output, &byte, 1) == 1 && byte != '\n') text += byte;
  return static_cast<uint16_t>(atoi(text.c_str()));
}

}  // namespace

std::unique_ptr<NodeProcess> NodeProcess::start(const std::string& binary, uint16_t port) {
  int input[2];
  int output[2];
  if (pipe2(input, O_CLOEXEC) != 0 || pipe2(output, O_CLOEXEC) != 0) return nullptr;
  const std::string port_text = std::to_string(port);
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(input[0], STDIN_FILENO);
    dup2(output[1], STDOUT_FILENO);
    execl(binary.c_str(), binary.c_str(), port_text.c_str(), nullptr);
    _exit(127);
  }
  close(input[0]);
  close(output[1]);
  const uint16_t got = read_port(output[0]);
  close(output[0]);
  auto process = std::unique_ptr<NodeProcess>(new NodeProcess(pid, input[1], got));
  return got == 0 ? nullptr : std::move(process);
}

void NodeProcess::signal(int number) {
  if (pid_ > 0) kill(pid_, number);
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
