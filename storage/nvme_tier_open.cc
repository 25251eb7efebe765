#include <fcntl.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/checksum.h"
#include "storage/nvme_tier_db.h"

namespace hadal {
namespace {

constexpr char kFormatFile[] = "HADAL_NVME_FORMAT";
constexpr char kFormatPrefix[] = "hadal nvme format ";
constexpr uint64_t kCapacityMinBytes = 16u << 20;
constexpr uint64_t kMemtableMinBytes = 512u << 10;
constexpr uint64_t kLogBytes = 2u << 20;  // MANIFEST, OPTIONS, LOG

// Value of a metadata row, little endian.
struct MetaRow {
  uint32_t version;
  uint32_t bytes;
  uint64_t ordinal;
  uint64_t generation;
  uint64_t layout_hash;
  uint32_t flags;
  uint8_t dropped_planes;
  uint8_t key_planes;
  uint8_t value_planes;
  uint8_t reserved;
  uint64_t raw_bytes;
  uint64_t first_token_index;
  uint64_t token_digest;
  uint8_t parent[sizeof(BlockKey)];
  uint8_t route[sizeof(BlockKey)];
  uint64_t checksum;  // hash64 of the 128 bytes before it
};
static_assert(sizeof(MetaRow) == 136);

uint64_t row_checksum(const MetaRow& row) {
  return hash64(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&row),
                                    sizeof(row) - sizeof(row.checksum)));
}

bool parse_row(const rocksdb::Slice& key, const rocksdb::Slice& value, NvmeRecord& record) {
  MetaRow row;
  if (key.size() != sizeof(record.key.bytes) || value.size() != sizeof(row)) return false;
  std::memcpy(&row, value.data(), sizeof(row));
  if (row.version != kNvmeFormatVersion || row.checksum != row_checksum(row)) return false;
  std::memcpy(record.key.bytes.data(), key.data(), key.size());
  record.ordinal = row.ordinal;
  record.generation = row.generation;
  record.layout_hash = row.layout_hash;
  record.bytes = row.bytes;
  record.flags = row.flags;
  record.dropped_planes = row.dropped_planes;
  record.precision = {row.key_planes, row.value_planes};
  record.raw_bytes = row.raw_bytes;
  record.origin.first_token_index = row.first_token_index;
  record.origin.token_digest = row.token_digest;
  std::memcpy(record.origin.parent.bytes.data(), row.parent, sizeof(row.parent));
  std::memcpy(record.origin.route.bytes.data(), row.route, sizeof(row.route));
  return row.ordinal != 0 && row.generation != 0;
}

uint64_t parse_ordinal(const std::string& key) {
  uint64_t ordinal = 0;
  if (key.size() != sizeof(ordinal)) return 0;
  for (const char c : key) ordinal = ordinal << 8 | static_cast<uint8_t>(c);
  return ordinal;
}

absl::Status make_directory(const std::string& path) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT && ::mkdir(path.c_str(), 0750) == 0) return absl::OkStatus();
    const int error = errno;
    if (error == EACCES || error == EPERM || error == EROFS) {
      return absl::PermissionDeniedError(
          absl::StrCat("nvme.path ", path, " cannot be created: ", std::strerror(error),
                       "; create it and give it to the user that runs hadald, or choose another"));
    }
    return absl::NotFoundError(absl::StrCat("nvme.path ", path,
                                            " cannot be created: ", std::strerror(error),
                                            "; its parent must be an existing directory"));
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("nvme.path ", path, " is not a directory; name one, or a path to create"));
  }
  return absl::OkStatus();
}

// By writing, since permission bits bind neither root nor a read-only mount.
absl::Status check_writable(const std::string& path) {
  const std::string probe = path + "/.hadal_probe";
  const int file = ::open(probe.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0640);
  if (file < 0) {
    const int error = errno;
    // That is not about rights: hadald itself refuses a full disk (Server::start), and a disk that
    // fills between the two is RocksDB's to report.
    if (error == ENOSPC || error == EDQUOT) return absl::OkStatus();
    return absl::PermissionDeniedError(
        absl::StrCat("nvme.path ", path, " cannot be written: ", std::strerror(error),
                     "; give it to the user that runs hadald and mount it read-write"));
  }
  ::close(file);
  ::unlink(probe.c_str());
  return absl::OkStatus();
}

bool direct_io_works(const std::string& path) {
  const std::string probe = path + "/.hadal_probe";
  const int file = ::open(probe.c_str(), O_CREAT | O_WRONLY | O_DIRECT | O_CLOEXEC, 0640);
  if (file >= 0) ::close(file);
  ::unlink(probe.c_str());
  return file >= 0;
}

absl::Status write_format(const std::string& path) {
  std::ofstream file(path + "/" + kFormatFile, std::ios::trunc);
  file << kFormatPrefix << kNvmeFormatVersion << "\n";
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("nvme.path ", path, " cannot be initialised; is the file system full?"));
}

// Marks an empty directory as ours; refuses one of another version or another owner untouched.
absl::Status check_format(const std::string& path) {
  std::ifstream file(path + "/" + kFormatFile);
  if (file) {
    std::string line;
    std::getline(file, line);
    const std::string expected = absl::StrCat(kFormatPrefix, kNvmeFormatVersion);
    if (line == expected) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("nvme.path ", path, " says '", line, "'; this build reads '", expected,
                     "'. Use another directory, or empty this one to lose what it caches"));
  }
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    if (entry.path().filename() == "lost+found") continue;
    return absl::FailedPreconditionError(
        absl::StrCat("nvme.path ", path, " holds files that are not Hadal's, such as ",
                     entry.path().filename().string(), "; use an empty directory"));
  }
  return write_format(path);
}

rocksdb::BlockBasedTableOptions table_options(bool is_data) {
  rocksdb::BlockBasedTableOptions table;
  table.checksum = rocksdb::kXXH3;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.no_block_cache = is_data;
  return table;
}

rocksdb::ColumnFamilyOptions data_options(const NvmeSizes& sizes) {
  rocksdb::ColumnFamilyOptions options;
  options.compaction_style = rocksdb::kCompactionStyleFIFO;
  options.num_levels = 1;
  options.compaction_options_fifo.max_table_files_size = sizes.data_limit_bytes;
  options.compaction_options_fifo.allow_compaction = false;  // until set_merging
  options.max_compaction_bytes = sizes.memtable_bytes;
  options.level0_file_num_compaction_trigger = 8;
  options.level0_slowdown_writes_trigger = INT_MAX;
  options.level0_stop_writes_trigger = INT_MAX;
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = sizes.memtable_bytes;
  options.max_write_buffer_number = kDataMemtablesMax;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table_options(true)));
  return options;
}

rocksdb::ColumnFamilyOptions meta_options() {
  rocksdb::ColumnFamilyOptions options;
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = 8u << 20;
  options.level0_slowdown_writes_trigger = INT_MAX;
  options.level0_stop_writes_trigger = INT_MAX;
  options.soft_pending_compaction_bytes_limit = 0;
  options.hard_pending_compaction_bytes_limit = 0;
  // Until recover_records has read it: a compaction that meets damage ends all writing.
  options.disable_auto_compactions = true;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table_options(false)));
  return options;
}

// RocksDB's own log lies on the same disk, and Debian's build asserts that no append follows a
// failed one: a full disk would end the process. What matters comes back as a status.
class SilentLogger final : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

rocksdb::DBOptions db_options(const std::string& path,
                              const std::shared_ptr<rocksdb::EventListener>& listener) {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.atomic_flush = true;
  options.listeners.push_back(listener);
  options.max_background_jobs = 3;
  options.max_manifest_file_size = 1u << 20;
  options.info_log = std::make_shared<SilentLogger>();
  options.max_bgerror_resume_count = 0;  // the writer resumes, once there is space
  const bool direct = direct_io_works(path);
  options.use_direct_reads = direct;
  options.use_direct_io_for_flush_and_compaction = direct;
  return options;
}

std::vector<rocksdb::ColumnFamilyDescriptor> families(const NvmeSizes& sizes) {
  return {{rocksdb::kDefaultColumnFamilyName, meta_options()},
          {"data", data_options(sizes)},
          {"meta", meta_options()}};
}

rocksdb::Status open_once(const rocksdb::DBOptions& options, const std::string& path, NvmeDb& out) {
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status =
      rocksdb::DB::Open(options, path, families(out.sizes), &handles, &db);
  if (!status.ok()) return status;
  out.db.reset(db);
  out.unused = handles[0];
  out.data = handles[1];
  out.meta = handles[2];
  return status;
}

// Makes a new manifest from the table files that can be read, and moves the others away: what a
// lost or cut file held is gone, and nothing else. (Best-efforts recovery would go back to before
// that file, and lose all that is newer.) Rows without data are found by recover_records, damaged
// values by their reader. Answers whether a file was left out.
bool salvage(const rocksdb::DBOptions& options, const std::string& path, const NvmeSizes& sizes) {
  bool lost = false;
  rocksdb::RepairDB(path, options, families(sizes)).PermitUncheckedError();
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(path + "/lost", ignored)) {
    if (entry.path().extension() == ".sst") lost = true;
  }
  std::filesystem::remove_all(path + "/lost", ignored);  // it would count against the capacity
  return lost;
}

absl::Status open_error(const std::string& path, const rocksdb::Status& status) {
  const std::string text = status.ToString();
  if (absl::StrContains(text, "LOCK") || absl::StrContains(text, "lock hold")) {
    return absl::FailedPreconditionError(absl::StrCat(
        "nvme.path ", path, " is in use by another process; every hadald needs its own"));
  }
  return absl::UnavailableError(absl::StrCat("nvme.path ", path, " cannot be opened: ", text));
}

// What cannot be read would stop every later compaction: the rows that were read go into a new
// family. Blocks of the other rows are out of reach, and leave with their files.
rocksdb::Status renew_meta(NvmeDb& db, const std::vector<NvmeRecord>& records) {
  constexpr size_t kRowsPerBatch = 4096;
  rocksdb::Status status = db.db->DropColumnFamily(db.meta);
  rocksdb::ColumnFamilyHandle* fresh = nullptr;
  if (status.ok()) status = db.db->CreateColumnFamily(meta_options(), "meta", &fresh);
  if (!status.ok()) return status;
  db.db->DestroyColumnFamilyHandle(db.meta);
  db.meta = fresh;
  rocksdb::WriteOptions options;
  options.disableWAL = true;
  for (size_t begin = 0; begin < records.size(); begin += kRowsPerBatch) {
    rocksdb::WriteBatch batch;
    const size_t end = std::min(records.size(), begin + kRowsPerBatch);
    for (size_t i = begin; i < end; ++i) {
      batch.Put(db.meta, meta_key(records[i].key), meta_row(records[i]));
    }
    status = db.db->Write(options, &batch);
    if (!status.ok()) return status;
  }
  return db.db->Flush(rocksdb::FlushOptions(), {db.unused, db.data, db.meta});
}

}  // namespace

NvmeDb::~NvmeDb() {
  if (db == nullptr) return;
  for (rocksdb::ColumnFamilyHandle* handle : {unused, data, meta}) {
    db->DestroyColumnFamilyHandle(handle);
  }
}

absl::StatusOr<NvmeSizes> NvmeSizes::make(const NvmeConfig& config) {
  if (config.capacity_bytes < kCapacityMinBytes) {
    return absl::InvalidArgumentError(absl::StrCat("nvme.capacity_bytes is ", config.capacity_bytes,
                                                   "; at least ", kCapacityMinBytes));
  }
  NvmeSizes sizes;
  sizes.capacity_bytes = config.capacity_bytes;
  sizes.memtable_bytes =
      std::clamp(config.memtable_bytes, kMemtableMinBytes,
                 std::max<uint64_t>(kMemtableMinBytes, config.capacity_bytes / 16));
  // Three memtables on their way and one merge beside them; metadata and its compaction.
  sizes.data_limit_bytes =
      config.capacity_bytes - 4 * sizes.memtable_bytes - config.capacity_bytes / 16 - kLogBytes;
  return sizes;
}

absl::StatusOr<std::unique_ptr<NvmeDb>> open_nvme_db(
    const NvmeConfig& config, const std::shared_ptr<rocksdb::EventListener>& listener,
    NvmeDamage& damage) {
  auto out = std::make_unique<NvmeDb>();
  absl::StatusOr<NvmeSizes> sizes = NvmeSizes::make(config);
  absl::Status checked = sizes.status();
  if (checked.ok()) checked = make_directory(config.path);
  if (checked.ok()) checked = check_writable(config.path);
  if (checked.ok()) checked = check_format(config.path);
  if (!checked.ok()) return checked;
  out->sizes = *sizes;

  const rocksdb::DBOptions options = db_options(config.path, listener);
  // Before opening, which replaces it. A whole one is not what is damaged: a file that it names is.
  std::vector<std::string> names;
  const bool manifest_whole = rocksdb::DB::ListColumnFamilies(options, config.path, &names).ok();
  rocksdb::Status status = open_once(options, config.path, *out);
  if (status.IsCorruption()) {
    damage = {true, manifest_whole};
    if (salvage(options, config.path, out->sizes)) damage.lost = true;
    status = open_once(options, config.path, *out);
  }
  if (status.IsCorruption()) {
    damage.lost = true;
    rocksdb::DestroyDB(config.path, rocksdb::Options(options, data_options(out->sizes)));
    std::error_code ignored;
    std::filesystem::create_directory(config.path, ignored);
    checked = write_format(config.path);
    if (!checked.ok()) return checked;
    status = open_once(options, config.path, *out);
  }
  if (!status.ok()) return open_error(config.path, status);
  return out;
}

absl::StatusOr<uint64_t> recover_records(NvmeDb& db, NvmeTier::Recovery& recovery) {
  std::vector<NvmeRecord>& records = recovery.records;
  std::vector<rocksdb::LiveFileMetaData> files;
  db.db->GetLiveFilesMetaData(&files);
  std::vector<std::pair<uint64_t, uint64_t>> ranges;  // first, last ordinal
  uint64_t next_ordinal = 1;
  for (const rocksdb::LiveFileMetaData& file : files) {
    if (file.column_family_name != "data") continue;
    ranges.emplace_back(parse_ordinal(file.smallestkey), parse_ordinal(file.largestkey));
    next_ordinal = std::max(next_ordinal, ranges.back().second + 1);
  }
  std::sort(ranges.begin(), ranges.end());
  const auto is_live = [&](uint64_t ordinal) {
    auto after =
        std::upper_bound(ranges.begin(), ranges.end(), std::make_pair(ordinal, UINT64_MAX));
    return after != ranges.begin() && ordinal <= std::prev(after)->second;
  };
  rocksdb::WriteBatch gone;
  std::unique_ptr<rocksdb::Iterator> rows(db.db->NewIterator(rocksdb::ReadOptions(), db.meta));
  for (rows->SeekToFirst(); rows->Valid(); rows->Next()) {
    NvmeRecord record;
    const bool whole = parse_row(rows->key(), rows->value(), record);
    if (whole) next_ordinal = std::max(next_ordinal, record.ordinal + 1);
    if (whole && is_live(record.ordinal)) {
      records.push_back(record);
      continue;
    }
    // FIFO drops the oldest alone: what misses above them was lost.
    const bool dropped = whole && (ranges.empty() || record.ordinal < ranges.front().first);
    if (!dropped) recovery.damage = {true, true};
    gone.Delete(db.meta, rows->key());
  }
  const bool damaged = !rows->status().ok();
  rows.reset();
  if (damaged) {
    recovery.damage = {true, true};
    const rocksdb::Status status = renew_meta(db, records);
    if (!status.ok()) {
      return absl::UnavailableError(
          absl::StrCat("the damaged metadata cannot be replaced: ", status.ToString()));
    }
  } else if (gone.Count() > 0) {
    rocksdb::WriteOptions options;
    options.disableWAL = true;
    db.db->Write(options, &gone).PermitUncheckedError();
  }
  db.db->EnableAutoCompaction({db.meta}).PermitUncheckedError();
  std::sort(records.begin(), records.end(),
            [](const NvmeRecord& a, const NvmeRecord& b) { return a.ordinal < b.ordinal; });
  return next_ordinal;
}

rocksdb::Status set_merging(NvmeDb& db, bool merging) {
  const std::string options = absl::StrCat("{allow_compaction=", merging ? "true" : "false", ";}");
  return db.db->SetOptions(db.data, {{"compaction_options_fifo", options}});
}

uint64_t oldest_live_ordinal(rocksdb::DB& db) {
  std::vector<rocksdb::LiveFileMetaData> files;
  db.GetLiveFilesMetaData(&files);
  uint64_t oldest = UINT64_MAX;
  for (const rocksdb::LiveFileMetaData& file : files) {
    if (file.column_family_name == "data") {
      oldest = std::min(oldest, parse_ordinal(file.smallestkey));
    }
  }
  return oldest;
}

std::string ordinal_key(uint64_t ordinal) {
  std::string key(sizeof(ordinal), '\0');
  for (size_t i = key.size(); i-- > 0; ordinal >>= 8) key[i] = static_cast<char>(ordinal & 0xff);
  return key;
}

rocksdb::Slice meta_key(const BlockKey& key) {
  return {reinterpret_cast<const char*>(key.bytes.data()), key.bytes.size()};
}

std::string meta_row(const NvmeRecord& record) {
  MetaRow row = {};
  row.version = kNvmeFormatVersion;
  row.bytes = record.bytes;
  row.ordinal = record.ordinal;
  row.generation = record.generation;
  row.layout_hash = record.layout_hash;
  row.flags = record.flags;
  row.dropped_planes = record.dropped_planes;
  row.key_planes = record.precision.key_planes;
  row.value_planes = record.precision.value_planes;
  row.raw_bytes = record.raw_bytes;
  row.first_token_index = record.origin.first_token_index;
  row.token_digest = record.origin.token_digest;
  std::memcpy(row.parent, record.origin.parent.bytes.data(), sizeof(row.parent));
  std::memcpy(row.route, record.origin.route.bytes.data(), sizeof(row.route));
  row.checksum = row_checksum(row);
  return {reinterpret_cast<const char*>(&row), sizeof(row)};
}

uint64_t row_ordinal(const rocksdb::Slice& row) {
  NvmeRecord record;
  return parse_row(meta_key(record.key), row, record) ? record.ordinal : 0;
}

}  // namespace hadal
