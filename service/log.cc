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

void log_grpc(gpr_log_func_args* args) {
  const LogLevel level =
      args->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::error : LogLevel::debug;
  log_event(level, "grpc", {{"message", args->message}});
}

}  // namespace

void start_logging(const std::string& level, const std::string& format) {
  json_format = format == "json";
  spdlog::set_default_logger(spdlog::stderr_logger_mt("hadald"));
  spdlog::set_level(spdlog::level::from_str(level));
  spdlog::set_pattern(json_format ? R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l",%v})"
                                  : "%Y-%m-%d %H:%M:%S.%e %l %v");
  gpr_set_log_function(log_grpc);
}

void log_event(LogLevel level, const std::string& event, const std::vector<LogField>& fields) {
  std::string line = json_format ? absl::StrCat("\"event\":", quoted(event)) : event;
  for (const auto& field : fields) {
    if (json_format) {
      absl::StrAppend(&line, ",", quoted(field.name), ":", quoted(field.value));
    } else {
      absl::StrAppend(&line, " ", field.name, "=", quoted(field.value));
    }
  }
  constexpr spdlog::level::level_enum kLevels[] = {spdlog::level::trace, spdlog::level::debug,
                                                   spdlog::level::info, spdlog::level::warn,
                                                   spdlog::level::err};
  spdlog::default_logger_raw()->log(kLevels[static_cast<int>(level)], line);
}

}  // namespace hadal
