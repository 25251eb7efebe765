#include "storage/nvme_tier.h"

#include <pthread.h>
#include <rocksdb/db.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/nvme_tier_db.h"

namespace hadal {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

constexpr size_t kLoadsMax = 4096;
constexpr size_t kErasesMax = 1 << 20;
constexpr size_t kDropBatch = 1024;
constexpr auto kPoll = std::chrono::milliseconds(20);
constexpr auto kStallMax = std::chrono::seconds(10);  // of one write behind a slow flush
constexpr auto kCapacityWaitMax = std::chrono::seconds(2);
constexpr auto kResumeInterval = std::chrono::milliseconds(200);
constexpr auto kReopenInterval = std::chrono::seconds(10);  // it reads all metadata

// What RocksDB's threads tell the writer. Shared with RocksDB, which may call until it is closed.
class Signals final : public rocksdb::EventListener {
 public:
  void OnFlushCompleted(rocksdb::DB*, const rocksdb::FlushJobInfo& info) override {
    if (info.cf_name == "data") {
      uint64_t seen = flushed_sequence.load();
      while (seen < info.largest_seqno &&
             !flushed_sequence.compare_exchange_weak(seen, info.largest_seqno)) {
      }
    }
    files_changed = true;
  }
  void OnCompactionCompleted(rocksdb::DB*, const rocksdb::CompactionJobInfo&) override {
    files_changed = true;
  }
  void OnTableFileDeleted(const rocksdb::TableFileDeletionInfo&) override { files_changed = true; }
  void OnBackgroundError(rocksdb::BackgroundErrorReason, rocksdb::Status*) override {
    background_error = true;
  }

  std::atomic<uint64_t> flushed_sequence{0};  // of the open database: another counts from lower
  std::atomic<bool> files_changed{false};
  std::atomic<bool> background_error{false};
};

struct Erase {
  BlockKey key;
  uint64_t ordinal = 0;
};

// One of: a write, or an erase (ordinal not 0). In one queue, because their order matters.
struct QueueItem {
  NvmeWrite write;
  Erase erase;
};

struct Load {
  NvmeRecord record;
  NvmeTier::LoadDone done;
};

struct Unpersisted {
  uint64_t sequence = 0;  // RocksDB's, of the data row
  uint64_t ordinal = 0;
  uint64_t bytes = 0;
  BlockKey key;
  absl::Time since;
};

class RocksNvmeTier final : public NvmeTier {
 public:
  RocksNvmeTier(const NvmeConfig& config, const Clock& clock, std::unique_ptr<NvmeDb> db,
                std::shared_ptr<Signals> signals)
      : config_(config),
        sizes_(db->sizes),
        clock_(clock),
        signals_(std::move(signals)),
        db_(std::move(db)) {}
  ~RocksNvmeTier() override { stop_threads(); }

  absl::Status recover(Recovery& recovery);
  void start(NvmeListener& listener) override;
  void stop() override { stop_threads(); }
  bool offer(NvmeWrite write) override;
  bool has_room(uint32_t bytes) const override;
  uint64_t block_max_bytes() const override { return sizes_.memtable_bytes; }
  bool load(const NvmeRecord& record, LoadDone done) override;
  void erase(const BlockKey& key, uint64_t ordinal) override;
  absl::Status flush(absl::Duration at_most) override;
  NvmeStats stats() const override;

 private:
  void stop_threads();
  void run_writer();
  void run_reader();
  void read_block(NvmeDb* db, const Load& load);
  void write_block(NvmeWrite& write);
  void write_erase(const Erase& erase);
  rocksdb::Status write_patiently(rocksdb::WriteBatch& batch);
  bool file_system_has_room(uint64_t at_least_bytes) const;
  bool wait_for_capacity(uint64_t bytes);
  void settle();
  void settle_flushed();
  void settle_dropped();
  void flush_if_due();
  void suspend();
  void try_resume();
  void reopen();
  bool close_db();
  void forget_all_but(const std::vector<NvmeRecord>& records);
  void drop_one();

  const NvmeConfig config_;
  const NvmeSizes sizes_;
  const Clock& clock_;
  const std::shared_ptr<Signals> signals_;
  NvmeListener* listener_ = nullptr;

  mutable std::mutex mutex_;
  std::condition_variable writer_wakes_;
  std::condition_variable reader_wakes_;
  // Guarded by mutex_. The writer alone replaces the database; a reader keeps the one it uses.
  std::shared_ptr<NvmeDb> db_;  // null: closed, and not to be opened again yet
  std::deque<QueueItem> queue_;
  uint64_t queue_bytes_ = 0;
  absl::Time writing_since_ = absl::InfiniteFuture();  // of the block the writer has in hand
  uint64_t offered_count_ = 0;
  uint64_t settled_count_ = 0;  // of the offered: written or dropped
  uint64_t written_ordinal_ = 0;
  uint64_t persisted_ordinal_ = 0;
  std::deque<Unpersisted> unpersisted_;
  std::deque<Load> loads_;
  bool flush_now_ = false;
  bool stopping_ = false;

  // Of the writer thread alone.
  uint64_t next_ordinal_ = 1;
  uint64_t reopen_count_ = 0;
  uint64_t unflushed_bytes_ = 0;
  std::deque<Erase> on_disk_;  // every record written, oldest first, until its file goes
  SteadyTime last_flush_ = std::chrono::steady_clock::now();
  SteadyTime last_resume_ = std::chrono::steady_clock::now();
  SteadyTime next_reopen_;          // not before
  uint64_t merge_after_bytes_ = 0;  // to be written before small files are merged again

  std::atomic<bool> suspended_{false};
  std::atomic<uint64_t> file_bytes_{0};
  std::atomic<uint64_t> dropped_blocks_{0};
  std::atomic<uint64_t> write_errors_{0};
  std::atomic<uint64_t> repairs_{0};
  std::atomic<uint64_t> db_reads_{0};

  std::vector<std::thread> threads_;
};

uint64_t live_file_bytes(NvmeDb& db) {
  uint64_t sum = 0;
  for (rocksdb::ColumnFamilyHandle* handle : {db.data, db.meta}) {
    uint64_t bytes = 0;
    db.db->GetIntProperty(handle, rocksdb::DB::Properties::kTotalSstFilesSize, &bytes);
    sum += bytes;
  }
  return sum;
}

absl::Status RocksNvmeTier::recover(Recovery& recovery) {
  const absl::StatusOr<uint64_t> next = recover_records(*db_, recovery);
  if (!next.ok()) {
    return absl::Status(next.status().code(),
                        absl::StrCat("nvme.path ", config_.path, ": ", next.status().message()));
  }
  next_ordinal_ = *next;
  written_ordinal_ = persisted_ordinal_ = next_ordinal_ - 1;
  for (const NvmeRecord& record : recovery.records)
    on_disk_.push_back({record.key, record.ordinal});
  file_bytes_ = live_file_bytes(*db_);
  set_merging(*db_, true).PermitUncheckedError();
  return absl::OkStatus();
}

void RocksNvmeTier::start(NvmeListener& listener) {
  listener_ = &listener;
  threads_.emplace_back([this] {
    pthread_setname_np(pthread_self(), "hadal-nvme-w");
    run_writer();
  });
  const int readers = std::clamp(config_.reader_threads, 1, 64);
  for (int i = 0; i < readers; ++i) {
    threads_.emplace_back([this, i] {
      pthread_setname_np(pthread_self(), absl::StrCat("hadal-nvme-r", i).c_str());
      run_reader();
    });
  }
}

void RocksNvmeTier::stop_threads() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  writer_wakes_.notify_all();
  reader_wakes_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  // Nothing is added any more. They end without the lock: they hold blocks, and call back.
  std::deque<Load> loads;
  std::deque<QueueItem> queue;
  {
    const std::lock_guard lock(mutex_);
    loads.swap(loads_);
    queue.swap(queue_);
    queue_bytes_ = 0;
  }
  for (Load& load : loads) load.done(absl::UnavailableError("the store is closing"));
}

void RocksNvmeTier::drop_one() { ++dropped_blocks_; }

bool RocksNvmeTier::has_room(uint32_t bytes) const {
  const std::lock_guard lock(mutex_);
  // One block may always wait, however large it is.
  return queue_bytes_ == 0 || queue_bytes_ + bytes <= config_.queue_max_bytes;
}

bool RocksNvmeTier::offer(NvmeWrite write) {
  {
    const std::lock_guard lock(mutex_);
    const uint64_t bytes = write.bytes.size();
    const bool full = queue_bytes_ > 0 && queue_bytes_ + bytes > config_.queue_max_bytes;
    if (full || stopping_ || suspended_ || bytes > block_max_bytes()) {
      drop_one();
      return false;
    }
    queue_bytes_ += bytes;
    ++offered_count_;
    queue_.push_back({std::move(write), {}});
  }
  writer_wakes_.notify_one();
  return true;
}

void RocksNvmeTier::erase(const BlockKey& key, uint64_t ordinal) {
  {
    const std::lock_guard lock(mutex_);
    // Beyond the bound a restart may find the copy again: true bytes of a dropped block.
    if (stopping_ || queue_.size() >= kErasesMax) return;
    queue_.push_back({{}, {key, ordinal}});
  }
  writer_wakes_.notify_one();
}

bool RocksNvmeTier::load(const NvmeRecord& record, LoadDone done) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || loads_.size() >= kLoadsMax) return false;
    loads_.push_back({record, std::move(done)});
  }
  reader_wakes_.notify_one();
  return true;
}

void RocksNvmeTier::run_reader() {
  std::unique_lock lock(mutex_);
  while (true) {
    reader_wakes_.wait(lock, [this] { return stopping_ || !loads_.empty(); });
    if (stopping_) return;
    const Load load = std::move(loads_.front());
    loads_.pop_front();
    std::shared_ptr<NvmeDb> db = db_;
    lock.unlock();
    read_block(db.get(), load);
    db.reset();
    lock.lock();
  }
}

void RocksNvmeTier::read_block(NvmeDb* db, const Load& load) {
  if (db == nullptr) return load.done(absl::UnavailableError("the NVMe tier is being repaired"));
  ++db_reads_;
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  options.fill_cache = false;
  rocksdb::PinnableSlice value;
  const rocksdb::Status status =
      db->db->Get(options, db->data, ordinal_key(load.record.ordinal), &value);
  if (status.ok() && value.size() == load.record.bytes) {
    load.done(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(value.data()), value.size()));
  } else if (status.ok() || status.IsCorruption()) {
    load.done(absl::DataLossError(absl::StrCat("NVMe read: ", status.ToString())));
  } else if (status.IsNotFound()) {
    load.done(absl::NotFoundError("its file was dropped"));
  } else {
    load.done(absl::UnavailableError(absl::StrCat("NVMe read: ", status.ToString())));
  }
}

void RocksNvmeTier::run_writer() {
  std::unique_lock lock(mutex_);
  while (true) {
    if (queue_.empty() && !flush_now_) writer_wakes_.wait_for(lock, kPoll);
    if (stopping_) return;
    if (!queue_.empty()) {
      QueueItem item = std::move(queue_.front());
      queue_.pop_front();
      const uint64_t bytes = item.write.bytes.size();
      if (item.erase.ordinal == 0) writing_since_ = item.write.since;
      lock.unlock();
      if (item.erase.ordinal != 0) {
        write_erase(item.erase);
      } else {
        write_block(item.write);
      }
      const bool was_write = item.erase.ordinal == 0;
      item = {};
      lock.lock();
      queue_bytes_ -= bytes;
      if (was_write) ++settled_count_;
      writing_since_ = absl::InfiniteFuture();
    }
    lock.unlock();
    settle();
    flush_if_due();
    lock.lock();
  }
}

// Never stalls inside RocksDB, so that closing and suspending stay prompt.
rocksdb::Status RocksNvmeTier::write_patiently(rocksdb::WriteBatch& batch) {
  rocksdb::WriteOptions options;
  options.disableWAL = true;
  options.no_slowdown = true;
  const SteadyTime give_up = std::chrono::steady_clock::now() + kStallMax;
  const uint64_t reopen_count = reopen_count_;
  while (true) {
    const rocksdb::Status status = db_->db->Write(options, &batch);
    if (!status.IsIncomplete()) return status;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return status;
    }
    if (signals_->background_error || std::chrono::steady_clock::now() > give_up) return status;
    settle();
    // The batch names families of the database that it was made for.
    if (suspended_ || reopen_count_ != reopen_count) return status;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

bool RocksNvmeTier::file_system_has_room(uint64_t at_least_bytes) const {
  struct statvfs info;
  if (::statvfs(config_.path.c_str(), &info) != 0 || info.f_blocks == 0) return true;
  return static_cast<double>(info.f_bavail) / static_cast<double>(info.f_blocks) >=
             config_.free_space_min_fraction &&
         uint64_t{info.f_bavail} * info.f_frsize >= at_least_bytes;
}

// FIFO frees files a moment after a flush has added one: the writer waits for it, rather than let
// the directory grow beyond its bound.
bool RocksNvmeTier::wait_for_capacity(uint64_t bytes) {
  const SteadyTime give_up = std::chrono::steady_clock::now() + kCapacityWaitMax;
  while (file_bytes_ + unflushed_bytes_ + bytes > sizes_.capacity_bytes) {
    if (suspended_ || std::chrono::steady_clock::now() > give_up) return false;
    signals_->files_changed = true;
    settle();
    flush_if_due();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const std::lock_guard lock(mutex_);
    if (stopping_) return false;
  }
  return true;
}

void RocksNvmeTier::write_block(NvmeWrite& write) {
  if (!listener_->on_wanted(write.record)) return;
  if (suspended_) return drop_one();
  if (!file_system_has_room(0) || !wait_for_capacity(write.bytes.size())) {
    suspend();
    return drop_one();
  }
  write.record.ordinal = next_ordinal_++;
  rocksdb::WriteBatch batch;
  // The data row last: its sequence number tells when both are flushed.
  batch.Put(db_->meta, meta_key(write.record.key), meta_row(write.record));
  batch.Put(db_->data, ordinal_key(write.record.ordinal),
            {reinterpret_cast<const char*>(write.bytes.data()), write.bytes.size()});
  const rocksdb::Status status = write_patiently(batch);
  if (!status.ok()) {
    ++write_errors_;
    drop_one();
    return suspend();
  }
  const uint64_t sequence = db_->db->GetLatestSequenceNumber();  // nobody else writes
  unflushed_bytes_ += write.bytes.size();
  on_disk_.push_back({write.record.key, write.record.ordinal});
  {
    const std::lock_guard lock(mutex_);
    written_ordinal_ = write.record.ordinal;
    unpersisted_.push_back(
        {sequence, write.record.ordinal, write.bytes.size(), write.record.key, write.since});
  }
  if (!listener_->on_written(write.record)) {
    write_erase({write.record.key, write.record.ordinal});
  }
}

// Only while the row is this ordinal's: eviction may have queued the block that replaced it before
// whoever put that block queued the erase of the old one.
void RocksNvmeTier::write_erase(const Erase& erase) {
  if (db_ == nullptr) return;  // a restart may find the copy again
  std::string value;
  const rocksdb::Status found =
      db_->db->Get(rocksdb::ReadOptions(), db_->meta, meta_key(erase.key), &value);
  if (found.IsNotFound() || (found.ok() && row_ordinal(value) != erase.ordinal)) return;
  rocksdb::WriteBatch batch;
  batch.Delete(db_->meta, meta_key(erase.key));
  if (!write_patiently(batch).ok()) ++write_errors_;
}

void RocksNvmeTier::settle() {
  if (signals_->background_error.exchange(false)) {
    ++write_errors_;
    suspend();
  }
  if (db_ != nullptr && signals_->files_changed.exchange(false)) {
    settle_flushed();
    settle_dropped();
    file_bytes_ = live_file_bytes(*db_);
  }
  if (suspended_) try_resume();
}

void RocksNvmeTier::settle_flushed() {
  const uint64_t flushed = signals_->flushed_sequence;
  while (true) {
    Unpersisted block;
    {
      const std::lock_guard lock(mutex_);
      if (unpersisted_.empty() || unpersisted_.front().sequence > flushed) break;
      block = unpersisted_.front();
    }
    listener_->on_persisted(block.key, block.ordinal);
    unflushed_bytes_ -= block.bytes;
    if (merge_after_bytes_ > 0) {
      merge_after_bytes_ -= std::min(merge_after_bytes_, block.bytes);
      if (merge_after_bytes_ == 0) set_merging(*db_, true).PermitUncheckedError();
    }
    const std::lock_guard lock(mutex_);
    unpersisted_.pop_front();
    persisted_ordinal_ = block.ordinal;
  }
}

// FIFO drops the oldest files, and files hold ascending ordinals: what lies below the oldest live
// file is gone.
void RocksNvmeTier::settle_dropped() {
  uint64_t persisted = 0;
  {
    const std::lock_guard lock(mutex_);
    persisted = persisted_ordinal_;
  }
  const uint64_t oldest = std::min(oldest_live_ordinal(*db_->db), persisted + 1);
  while (!on_disk_.empty() && on_disk_.front().ordinal < oldest) {
    rocksdb::WriteBatch batch;
    for (size_t i = 0; i < kDropBatch && !on_disk_.empty(); ++i) {
      const Erase& front = on_disk_.front();
      if (front.ordinal >= oldest) break;
      if (listener_->on_dropped(front.key, front.ordinal)) {
        batch.Delete(db_->meta, meta_key(front.key));
      }
      on_disk_.pop_front();
    }
    rocksdb::WriteOptions options;
    options.disableWAL = true;
    options.no_slowdown = true;
    // Where it fails, a restart finds rows without data and deletes them then.
    if (batch.Count() > 0) db_->db->Write(options, &batch).PermitUncheckedError();
  }
}

void RocksNvmeTier::flush_if_due() {
  const SteadyTime now = std::chrono::steady_clock::now();
  {
    const std::lock_guard lock(mutex_);
    const bool due = now - last_flush_ >= absl::ToChronoNanoseconds(config_.flush_interval);
    if (suspended_ || unpersisted_.empty() || !(due || (flush_now_ && queue_.empty()))) {
      // The writer does not sleep while this is set.
      if (suspended_ || unpersisted_.empty()) flush_now_ = false;
      return;
    }
    flush_now_ = false;
  }
  last_flush_ = now;
  rocksdb::FlushOptions options;
  options.wait = false;
  options.allow_write_stall = true;
  const rocksdb::Status status = db_->db->Flush(options, {db_->unused, db_->data, db_->meta});
  if (!status.ok() && !status.IsTryAgain()) {
    ++write_errors_;
    suspend();
  }
}

void RocksNvmeTier::suspend() {
  suspended_ = true;
  last_resume_ = std::chrono::steady_clock::now();
}

void RocksNvmeTier::try_resume() {
  const SteadyTime now = std::chrono::steady_clock::now();
  if (now - last_resume_ < kResumeInterval) return;
  last_resume_ = now;
  if (db_ == nullptr) return reopen();
  file_bytes_ = live_file_bytes(*db_);
  if (!file_system_has_room(0)) return;
  const rocksdb::Status status = db_->db->Resume();
  if (status.ok()) suspended_ = false;
  if (status.severity() >= rocksdb::Status::kFatalError) reopen();
}

// A merge, or a compaction of metadata, that meets damage or a failing disk ends all writing of an
// open database: RocksDB resumes only from a full disk. What was not flushed loses its copy, and
// stays in DRAM. Merging waits until the newer files alone are more than a merge takes: then none
// reaches the damaged file again, which serves what can be read of it until FIFO drops it.
void RocksNvmeTier::reopen() {
  if (std::chrono::steady_clock::now() < next_reopen_) return;
  if (!file_system_has_room(kNvmeOpenSpaceMinBytes)) return;
  if (db_ != nullptr) {
    settle_flushed();
    settle_dropped();  // what made room is not lost
  }
  if (!close_db()) return;
  // What was repaired or emptied begins below it, and its blocks would pass for persisted.
  signals_->flushed_sequence = 0;
  // Closing flushed what was left.
  if (!file_system_has_room(kNvmeOpenSpaceMinBytes)) return;
  NvmeTier::Recovery recovery;
  absl::StatusOr<std::unique_ptr<NvmeDb>> opened = open_nvme_db(config_, signals_, recovery.damage);
  absl::StatusOr<uint64_t> next = absl::UnavailableError("not opened");
  if (opened.ok()) next = recover_records(**opened, recovery);
  if (recovery.damage.repaired) ++repairs_;
  next_reopen_ = std::chrono::steady_clock::now() + kReopenInterval;
  if (!next.ok()) return;
  forget_all_but(recovery.records);
  next_ordinal_ = std::max(next_ordinal_, *next);
  merge_after_bytes_ = sizes_.memtable_bytes;
  signals_->background_error = false;
  file_bytes_ = live_file_bytes(**opened);
  {
    const std::lock_guard lock(mutex_);
    db_ = *std::move(opened);
  }
  ++reopen_count_;
  suspended_ = false;
}

// False where the tier is stopping.
bool RocksNvmeTier::close_db() {
  std::shared_ptr<NvmeDb> closing;
  {
    const std::lock_guard lock(mutex_);
    closing.swap(db_);
  }
  while (closing.use_count() > 1) {  // a reader has it, for one read
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const std::lock_guard lock(mutex_);
    if (stopping_) return false;
  }
  return true;
}

// Copies whose rows a reopened database lacks: not flushed, in a file that repair left out, or in
// metadata that was damaged. What it has lies in files: closing RocksDB may have flushed it.
void RocksNvmeTier::forget_all_but(const std::vector<NvmeRecord>& records) {
  uint64_t persisted = 0;
  {
    const std::lock_guard lock(mutex_);
    persisted = std::exchange(persisted_ordinal_, written_ordinal_);
    unpersisted_.clear();
  }
  unflushed_bytes_ = 0;
  std::deque<Erase> kept;
  auto found = records.begin();
  for (const Erase& copy : on_disk_) {
    while (found != records.end() && found->ordinal < copy.ordinal) ++found;
    if (found != records.end() && found->ordinal == copy.ordinal) {
      kept.push_back(copy);
      if (copy.ordinal > persisted) listener_->on_persisted(copy.key, copy.ordinal);
    } else {
      listener_->on_lost(copy.key, copy.ordinal);
    }
  }
  on_disk_ = std::move(kept);
}

absl::Status RocksNvmeTier::flush(absl::Duration at_most) {
  const SteadyTime deadline =
      std::chrono::steady_clock::now() +
      absl::ToChronoNanoseconds(std::clamp(at_most, absl::ZeroDuration(), absl::Hours(1)));
  std::unique_lock lock(mutex_);
  const uint64_t offered = offered_count_;
  uint64_t ordinal = UINT64_MAX;
  while (true) {
    if (suspended_) {
      return absl::UnavailableError("the NVMe tier is suspended: its disk is full or failing");
    }
    if (ordinal == UINT64_MAX && settled_count_ >= offered) ordinal = written_ordinal_;
    if (ordinal != UINT64_MAX && persisted_ordinal_ >= ordinal) return absl::OkStatus();
    if (std::chrono::steady_clock::now() >= deadline) {
      return absl::DeadlineExceededError("not all blocks are persisted yet");
    }
    flush_now_ = ordinal != UINT64_MAX;
    lock.unlock();
    writer_wakes_.notify_one();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    lock.lock();
  }
}

NvmeStats RocksNvmeTier::stats() const {
  NvmeStats stats;
  stats.capacity_bytes = sizes_.capacity_bytes;
  stats.file_bytes = file_bytes_;
  stats.dropped_blocks = dropped_blocks_;
  stats.write_errors = write_errors_;
  stats.repairs = repairs_;
  stats.db_reads = db_reads_;
  stats.suspended = suspended_;
  const std::lock_guard lock(mutex_);
  stats.queue_bytes = queue_bytes_;
  absl::Time oldest = writing_since_;
  if (!unpersisted_.empty()) oldest = std::min(oldest, unpersisted_.front().since);
  for (const QueueItem& item : queue_) {
    if (item.erase.ordinal != 0) continue;
    oldest = std::min(oldest, item.write.since);
    break;
  }
  if (oldest != absl::InfiniteFuture()) {
    stats.oldest_unpersisted_age = std::max(absl::ZeroDuration(), clock_.now() - oldest);
  }
  return stats;
}

}  // namespace

uint64_t NvmeTier::memtable_bytes(const NvmeConfig& config) {
  const absl::StatusOr<NvmeSizes> sizes = NvmeSizes::make(config);
  return config.path.empty() || !sizes.ok() ? 0 : kDataMemtablesMax * sizes->memtable_bytes;
}

absl::StatusOr<std::unique_ptr<NvmeTier>> NvmeTier::open(const NvmeConfig& config,
                                                         const Clock& clock, Recovery& recovery) {
  auto signals = std::make_shared<Signals>();
  absl::StatusOr<std::unique_ptr<NvmeDb>> db = open_nvme_db(config, signals, recovery.damage);
  if (!db.ok()) return db.status();
  auto tier = std::make_unique<RocksNvmeTier>(config, clock, *std::move(db), std::move(signals));
  absl::Status recovered = tier->recover(recovery);
  if (!recovered.ok()) return recovered;
  return tier;
}

}  // namespace hadal
