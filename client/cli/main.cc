// hadalctl: looks into store nodes and stores files. Exit codes: 0, 2 for usage, 1 for the rest.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/usage.h"

namespace hadal::cli {
namespace {

constexpr int kExitUsage = 2;
constexpr int kExitFailure = 1;

struct Arguments {
  AdminTarget admin;
  FileTarget files;
  double timeout_s = 0;  // 0: the command's own
  bool json = false;
  bool all = false;
  uint32_t at_most = 1000;
  std::vector<std::string> words;
  std::string name;
  std::string out;
};

CLI::App* add_command(CLI::App& app, const char* name, const char* help, Arguments& arguments) {
  CLI::App* command = app.add_subcommand(name, help);
  command->add_flag("--json", arguments.json, "one JSON object instead of a table");
  command->add_option("--timeout", arguments.timeout_s, "seconds until the command gives up")
      ->check(CLI::Range(0.001, 3600.0));
  return command;
}

CLI::App* add_admin_command(CLI::App& app, const char* name, const char* help,
                            Arguments& arguments) {
  CLI::App* command = add_command(app, name, help, arguments);
  command->add_option("--admin", arguments.admin.address, "admin API of a node, host:port")
      ->capture_default_str();
  return command;
}

CLI::App* add_file_command(CLI::App& app, const char* name, const char* help,
                           Arguments& arguments) {
  CLI::App* command = add_command(app, name, help, arguments);
  command->add_option("--nodes", arguments.files.nodes, "data plane of the nodes, host:port,...")
      ->capture_default_str();
  command->add_option("--transport", arguments.files.transport, "auto or tcp")
      ->check(CLI::IsMember({"auto", "tcp"}))
      ->capture_default_str();
  return command;
}

void add_commands(CLI::App& app, Arguments& arguments) {
  add_admin_command(app, "status", "counters of a node", arguments);
  add_admin_command(app, "tiers", "how full a node's tiers are", arguments);
  add_admin_command(app, "config", "settings in force on a node", arguments);
  add_admin_command(app, "blocks", "blocks that a node holds", arguments)
      ->add_option("--at-most", arguments.at_most, "blocks to list")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  add_admin_command(app, "lookup", "where blocks are", arguments)
      ->add_option("KEY", arguments.words, "64 hexadecimal digits")
      ->required();
  CLI::App* evict = add_admin_command(app, "evict", "drop blocks that are not pinned", arguments);
  CLI::Option* keys = evict->add_option("KEY", arguments.words, "64 hexadecimal digits");
  evict->add_flag("--all", arguments.all, "every block of the node")->excludes(keys);
  add_file_command(app, "put", "store files under their base names", arguments)
      ->add_option("FILE", arguments.words, "files of 1 byte to 2 GiB")
      ->required();
  CLI::App* get = add_file_command(app, "get", "fetch a stored file", arguments);
  get->add_option("NAME", arguments.name, "base name that it was put under")->required();
  get->add_option("--out", arguments.out, "file to write")->required();
}

absl::Status run_command(const std::string& name, const Arguments& arguments) {
  const auto& [admin, files, timeout_s, json, all, at_most, words, file_name, out] = arguments;
  if (name == "status") return show_status(admin);
  if (name == "tiers") return show_tiers(admin);
  if (name == "config") return show_config(admin);
  if (name == "blocks") return show_blocks(admin, at_most);
  if (name == "lookup") return show_lookup(admin, words);
  if (name == "evict") return evict(admin, words);
  if (name == "put") return put_files(files, words);
  return get_file(files, file_name, out);
}

// A stream to standard output of our own; what others write there goes to standard error. UCX
// prints its warnings to standard output, where scripts read our answer.
std::FILE* take_stdout() {
  std::FILE* out = fdopen(dup(STDOUT_FILENO), "w");
  if (out == nullptr || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) return stdout;
  return out;
}

int run(int argc, char** argv) {
  CLI::App app("hadalctl looks into Hadal's store nodes, and stores files in them.");
  app.set_version_flag("--version", std::string("hadalctl 0.1.0"));
  app.require_subcommand(1);
  Arguments arguments;
  add_commands(app, arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& wish) {  // --help, --version
    return app.exit(wish);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "hadalctl: %s\nRun hadalctl --help for usage.\n",
                 usage_problem(app, error).c_str());
    return kExitUsage;
  }
  const std::string name = app.get_subcommands().front()->get_name();
  if (name == "evict" && !arguments.all && arguments.words.empty()) {
    std::fputs("hadalctl: evict needs keys or --all\n", stderr);
    return kExitUsage;
  }
  arguments.admin.json = arguments.files.json = arguments.json;
  if (arguments.timeout_s > 0) {
    arguments.admin.timeout = arguments.files.timeout = absl::Seconds(arguments.timeout_s);
  }
  arguments.admin.out = arguments.files.out = take_stdout();
  absl::Status status = run_command(name, arguments);
  if (status.ok() && std::fflush(arguments.admin.out) != 0) {
    status = absl::UnavailableError("the answer cannot be written to standard output");
  }
  if (status.ok()) return 0;
  const std::string line = absl::StrCat("hadalctl: ", status.message(), "\n");
  std::fputs(line.c_str(), stderr);
  // Arguments that only the node or the file system could judge are usage too.
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitFailure;
}

}  // namespace
}  // namespace hadal::cli

int main(int argc, char** argv) { return hadal::cli::run(argc, argv); }
