#include "service/log.h"

#include <grpc/support/log.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace hadal {
namespace {

std::atomic<bool> json_format = false;

std::string quoted(const std::string& text) {
  using Json = nlohmann::json;
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

// All at debug: gRPC calls an error what its callers report themselves, such as a port in use.
void log_grpc(gpr_log_func_args* args) {
  log_event(LogLevel::debug, "grpc", {{"message", args->message}});
}

}  // namespace

void start_logging(const std::string& level, const std::string& format) {
  json_format = format == "json";
  spdlog::set_default_logger(spdlog::stderr_logger_mt("hadald"));
  spdlog::set_level(spdlog::level::from_str(level));
  spdlog::set_pattern(json_format ? R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z",%v})"
                                  : "%Y-%m-%d %H:%M:%S.%e %v");
  gpr_set_log_function(log_grpc);
}

void log_event(LogLevel level, const std::string& event, const std::vector<LogField>& fields) {
  // Levels are named as in the configuration; spdlog would say "warning".
  static constexpr struct {
    const char* name;
    spdlog::level::level_enum level;
  } kLevels[] = {{"trace", spdlog::level::trace},
                 {"debug", spdlog::level::debug},
                 {"info", spdlog::level::info},
                 {"warn", spdlog::level::warn},
                 {"error", spdlog::level::err}};
  const auto& shown = kLevels[static_cast<int>(level)];
  std::string line = json_format
                         ? absl::StrCat("\"level\":\"", shown.name, "\",\"event\":", quoted(event))
                         : absl::StrCat(shown.name, " ", event);
  for (const auto& field : fields) {
    if (json_format) {
      absl::StrAppend(&line, ",", quoted(field.name), ":", quoted(field.value));
    } else {
      absl::StrAppend(&line, " ", field.name, "=", quoted(field.value));
    }
  }
  spdlog::default_logger_raw()->log(shown.level, line);
}

}  // namespace hadal
