#pragma once

// Structured logs of hadald on standard error, one line an event: text for people, or one JSON
// object with time, level, event and the fields. Nothing is logged on the hot path.
// Threads: any. gRPC's own messages come the same way.

#include <string>
#include <vector>

namespace hadal {

enum class LogLevel { trace, debug, info, warn, error };

struct LogField {
  std::string name;
  std::string value;
};

// `level` and `format` as in the configuration. Call once, before the first event.
void start_logging(const std::string& level, const std::string& format);

void log_event(LogLevel level, const std::string& event, const std::vector<LogField>& fields);

}  // namespace hadal
