// The configuration file: what is read, and what is said about every kind of mistake.

#include "service/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace hadal {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hadal-config-XXXXXX").string();
    directory_ = mkdtemp(pattern.data());
    file_ = directory_ + "/hadald.toml";
  }
  ~ConfigTest() override { std::filesystem::remove_all(directory_); }

  absl::StatusOr<Config> load(const std::string& text) {
    std::ofstream(file_, std::ios::binary) << text;
    return load_config(file_);
  }

  // The message about a refused file: one line that begins with the file and the line's number.
  std::string refusal(const std::string& text, int line) {
    const absl::StatusOr<Config> config = load(text);
    EXPECT_TRUE(absl::IsInvalidArgument(config.status())) << text << config.status();
    std::string message(config.status().message());
    EXPECT_THAT(message, StartsWith(absl::StrCat(file_, ":", line, ": "))) << text;
    EXPECT_THAT(message, Not(HasSubstr("\n"))) << text;
    return message;
  }

  std::string directory_;
  std::string file_;
};

std::string value_of(const Config& config, const std::string& key) {
  for (const SettingValue& setting : config_settings(config)) {
    if (setting.key == key) return setting.value;
  }
  return "no such key";
}

TEST_F(ConfigTest, EmptySectionsAreTheDefaults) {
  const auto config = load("# nothing\n[node]\n");
  ASSERT_TRUE(config.ok()) << config.status();
  const auto expected = config_settings(default_config());
  const auto actual = config_settings(*config);
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) EXPECT_EQ(actual[i].value, expected[i].value);
  EXPECT_EQ(config->file, file_);
}

// Written as a file, the settings in force are read back as the same.
TEST_F(ConfigTest, SettingsPrintAsTheyAreRead) {
  const auto config = load(
      "[dram]\nhigh_watermark = 0.9000000001\nlow_watermark = 0.5\ncapacity = 1048577\n"
      "[node]\nshutdown_timeout = \"1m30s\"\n[nvme]\npath = \"/a b/\u00e9\"\n[log]\nlevel = "
      "\"warn\"\n");
  ASSERT_TRUE(config.ok()) << config.status();
  std::string text;
  for (const SettingValue& setting : config_settings(*config)) {
    const size_t dot = setting.key.find('.');
    const bool number =
        absl::StrContains(setting.key, "fraction") || absl::StrContains(setting.key, "watermark") ||
        absl::StrContains(setting.key, "max_blocks") || absl::StrContains(setting.key, "threads");
    const bool bytes = setting.value.find_first_not_of("0123456789") == std::string::npos;
    const char* quote = number || bytes ? "" : "\"";
    absl::StrAppend(&text, setting.key.substr(0, dot), ".", setting.key.substr(dot + 1), " = ",
                    quote, setting.value, quote, "\n");
  }
  const auto again = load(text);
  ASSERT_TRUE(again.ok()) << again.status() << text;
  for (const SettingValue& setting : config_settings(*config)) {
    EXPECT_EQ(value_of(*again, setting.key), setting.value) << setting.key;
  }
  EXPECT_EQ(value_of(*again, "dram.high_watermark"), "0.9000000001");
  EXPECT_EQ(value_of(*again, "dram.capacity"), "1048577");
}

struct Wrong {
  const char* key;
  const char* value;    // as it stands in the file
  const char* allowed;  // part of what the message allows
};

TEST_F(ConfigTest, WrongValuesAreNamedWithWhatIsAllowed) {
  const Wrong kWrong[] = {
      {"node.name", "\"\"", "a non-empty string"},
      {"node.name", "7", "a non-empty string"},
      {"node.name", "true", "a non-empty string"},
      {"node.shutdown_timeout", "20", "a string such as \"2s\""},
      {"node.shutdown_timeout", "\"20\"", "from 100ms to 1h"},
      {"node.shutdown_timeout", "\"99ms\"", "from 100ms to 1h"},
      {"node.shutdown_timeout", "\"2h\"", "from 100ms to 1h"},
      {"node.shutdown_timeout", "\"inf\"", "from 100ms to 1h"},
      {"node.shutdown_timeout", "\"-5s\"", "from 100ms to 1h"},
      {"data.listen", "7400", "\"host:port\""},
      {"data.listen", "\"localhost\"", "\"host:port\""},
      {"data.listen", "\":7400\"", "\"host:port\""},
      {"data.listen", "\"host:65536\"", "\"host:port\""},
      {"data.listen", "\"host:7400*2\"", "\"host:port\""},
      {"data.listen", "\"::1:7400\"", "\"host:port\""},
      {"data.transport", "\"rdma\"", "one of \"auto\", \"tcp\""},
      {"admin.listen", "\"\"", "\"host:port\""},
      {"metrics.listen", "\"a:b\"", "\"host:port\""},
      {"dram.capacity", "1048575", "from 1MiB to 1024TiB"},
      {"dram.capacity", "-1", "KiB, MiB, GiB or TiB"},
      {"dram.capacity", "99999999999999999999", "from 1MiB to 1024TiB"},
      {"dram.capacity", "0x10", "from 1MiB to 1024TiB"},
      {"dram.capacity", "2024-02-28", "KiB, MiB, GiB or TiB"},
      {"dram.capacity", "2024-02-29T07:30:00Z", "KiB, MiB, GiB or TiB"},
      {"dram.capacity", "[1, \"a\"]", "KiB, MiB, GiB or TiB"},
      {"dram.capacity", "1.5", "KiB, MiB, GiB or TiB"},
      {"dram.capacity", "\"1GB\"", "KiB, MiB, GiB or TiB"},
      {"dram.capacity", "\"1.5GiB\"", "KiB, MiB, GiB or TiB"},
      {"dram.capacity", "\"-1GiB\"", "KiB, MiB, GiB or TiB"},
      {"dram.capacity", "\"GiB\"", "KiB, MiB, GiB or TiB"},
      {"dram.capacity", "\"99999999TiB\"", "from 1MiB to 1024TiB"},
      {"dram.high_watermark", "0.0", "a number above 0.0, at most 1.0"},
      {"dram.high_watermark", "1.0000001", "at most 1.0"},
      {"dram.high_watermark", "nan", "at most 1.0"},
      {"dram.high_watermark", "\"0.9\"", "at most 1.0"},
      {"dram.low_watermark", "0", "a number above 0.0"},
      {"dram.pinned_max_fraction", "-0.1", "a number from 0.0 to 1.0"},
      {"index.max_blocks", "1023", "an integer from 1024 to 268435456"},
      {"index.max_blocks", "\"2000\"", "an integer from 1024"},
      {"index.max_blocks", "2000.0", "an integer from 1024"},
      {"nvme.path", "[]", "a directory, or \"\" for no NVMe tier"},
      {"nvme.capacity", "\"15MiB\"", "from 16MiB"},
      {"nvme.memtable", "1000", "from 1MiB"},
      {"nvme.flush_interval", "\"9ms\"", "from 10ms to 1h"},
      {"nvme.queue_max", "0", "from 1MiB"},
      {"nvme.reader_threads", "0", "an integer from 1 to 64"},
      {"nvme.reader_threads", "65", "an integer from 1 to 64"},
      {"nvme.free_space_min_fraction", "1.1", "a number from 0.0 to 1.0"},
      {"log.level", "\"WARN\"", "\"trace\", \"debug\", \"info\", \"warn\", \"error\""},
      {"log.format", "\"xml\"", "\"text\", \"json\""},
  };
  for (const Wrong& wrong : kWrong) {
    const std::string key = wrong.key;
    const size_t dot = key.find('.');
    const std::string message = refusal(absl::StrCat("# a comment\n[", key.substr(0, dot), "]\n",
                                                     key.substr(dot + 1), " = ", wrong.value, "\n"),
                                        3);
    EXPECT_THAT(message, HasSubstr(absl::StrCat(" ", key, " is ", wrong.value, "; allowed is ")));
    EXPECT_THAT(message, HasSubstr(wrong.allowed));
  }
}

TEST_F(ConfigTest, EveryKeyIsRefusedAsAList) {
  for (const SettingValue& setting : config_settings(default_config())) {
    EXPECT_THAT(refusal(absl::StrCat(setting.key, " = [1]\n"), 1),
                HasSubstr(absl::StrCat(setting.key, " is [1]; allowed is ")));
  }
}

TEST_F(ConfigTest, UnknownKeysAndSectionsAreNamedWithTheKnownOnes) {
  EXPECT_THAT(refusal("[data]\nlisten = \"a:1\"\nlissen = \"a:1\"\n", 3),
              HasSubstr("data.lissen is \"a:1\", and unknown; known are data.listen, data.tra"));
  EXPECT_THAT(refusal("[node]\n\n[colour]\nred = 1\n", 3),
              HasSubstr("colour is a section, and unknown; known are the sections node, data"));
  EXPECT_THAT(refusal("name = \"x\"\n", 1), HasSubstr("name is \"x\", and unknown"));
  EXPECT_THAT(refusal("data = 5\n", 1), HasSubstr("data is 5; it is a section: write [data] once"));
  EXPECT_THAT(refusal("[[data]]\n", 1), HasSubstr("data is [[data]]; it is a section"));
  EXPECT_THAT(refusal("[node]\n\"a\\nb\" = 1\n", 2), HasSubstr("node.a\\x0ab is 1, and unknown"));
}

TEST_F(ConfigTest, TheFirstMistakeOfTheFileIsReported) {
  refusal("[log]\nlevel = \"loud\"\n[dram]\ncapacity = 1\n[node]\nname = 1\n", 2);
}

TEST_F(ConfigTest, BrokenTomlIsShownWithItsLine) {
  const std::pair<const char*, int> kBroken[] = {
      {"[data]\nlisten = \"a:1\"\nlisten = \"b:2\"\n", 3},
      {"[data]\n[node]\n[data]\n", 3},
      {"[data\n", 1},
      {"[data]\nlisten = \"a:1\n", 2},
      {"[data]\nlisten =\n", 2},
      {"[data]\nlisten\n", 2},
      {"[dram]\ncapacity = 1GiB\n", 2},
      {"[node]\nname = \"\xff\"\n", 2},
      {"not toml at all", 1},
  };
  for (const auto& [text, line] : kBroken) {
    EXPECT_THAT(refusal(text, line), HasSubstr("not valid TOML: "));
  }
  const std::string message = refusal(kBroken[0].first, 3);
  EXPECT_THAT(message, HasSubstr("already exists"));
  EXPECT_THAT(message, HasSubstr("in 'listen = \"b:2\"'"));
}

TEST_F(ConfigTest, RelationsAreCheckedAndNameTheLine) {
  EXPECT_THAT(refusal("[dram]\nlow_watermark = 0.95\n", 2),
              HasSubstr("dram.low_watermark (0.95) must be below dram.high_watermark (0.95)"));
  EXPECT_THAT(refusal("[dram]\nhigh_watermark = 0.5\n", 2),
              HasSubstr("dram.high_watermark is 0.5"));
  EXPECT_THAT(refusal("[nvme]\npath = \"/x\"\ncapacity = \"16MiB\"\nmemtable = \"9MiB\"\n", 4),
              HasSubstr("nvme.memtable (9MiB) must be at most half of nvme.capacity (16MiB)"));
  EXPECT_THAT(refusal("[nvme]\npath = \"/x\"\ncapacity = \"16MiB\"\n", 3),
              HasSubstr("nvme.memtable (256MiB)"));
}

TEST_F(ConfigTest, OnePortForTwoListenersNamesBoth) {
  EXPECT_THAT(refusal("[data]\nlisten = \"a:1\"\n[admin]\nlisten = \"a:1\"\n", 4),
              HasSubstr("admin.listen is \"a:1\", the port of data.listen (\"a:1\")"));
  EXPECT_THAT(refusal("[metrics]\nlisten = \"0.0.0.0:1\"\n[admin]\nlisten = \"a:1\"\n", 2),
              HasSubstr("metrics.listen is \"0.0.0.0:1\", the port of admin.listen (\"a:1\")"));
  // Where only one of them is in the file, its line is the one to change.
  EXPECT_THAT(refusal("\n[data]\nlisten = \"[::]:7401\"\n", 3),
              HasSubstr("data.listen is \"[::]:7401\", the port of admin.listen (\"127.0.0.1:74"));
  for (const char* fine : {"[data]\nlisten = \"a:1\"\n[admin]\nlisten = \"b:1\"\n",
                           "[data]\nlisten = \"a:0\"\n[admin]\nlisten = \"a:0\"\n"}) {
    EXPECT_TRUE(load(fine).ok()) << fine;
  }
}

TEST_F(ConfigTest, FilesThatCannotBeReadAreNotFound) {
  for (const std::string& file : {directory_ + "/none", directory_}) {
    const auto config = load_config(file);
    EXPECT_TRUE(absl::IsNotFound(config.status())) << config.status();
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(file));
  }
  EXPECT_TRUE(absl::IsNotFound(load("").status()));
}

TEST(FormatSizeTest, IsTheShortestExactForm) {
  EXPECT_EQ(format_size(0), "0");
  EXPECT_EQ(format_size(1000), "1000");
  EXPECT_EQ(format_size(1536), "1536");
  EXPECT_EQ(format_size(2048), "2KiB");
  EXPECT_EQ(format_size(uint64_t{3} << 30), "3GiB");
  EXPECT_EQ(format_size(uint64_t{1} << 40), "1TiB");
}

}  // namespace
}  // namespace hadal
