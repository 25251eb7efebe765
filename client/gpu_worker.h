#pragma once

// The thread "hadal-gpu": starts jobs on a GPU's streams and ends each when the device is done with
// it. Two are under way at most, so that one encodes while the other's blocks are copied.
//
// What waits, and for how long (docs/hbm.md): tasks by priority, of equals decodes before encodes,
// then the older one, each once the engine's event has happened and no longer than its deadline;
// bounded as CodecWorkers' tasks are. A device that has not finished a job within `patience`, from
// when it can have begun with it, is given up: that job and all later ones end Unavailable, and
// what it was given is never used nor freed again. Threads: any.

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/time/time.h"
#include "common/block_ops.h"
#include "common/encoded_block.h"
#include "kernels/codec.h"
#include "kernels/gpu.h"

namespace hadal {

inline constexpr size_t kGpuJobBlocksMax = 64;
inline constexpr size_t kGpuJobsUnderWay = 2;

// A codec, and what its jobs work in.
class GpuJobCodec {
 public:
  static absl::StatusOr<std::unique_ptr<GpuJobCodec>> create(Gpu& gpu, const KvLayout& layout,
                                                             const CodecSpec& spec);
  const cuda::Planner& planner() const { return codec_->planner(); }

 private:
  friend class GpuWorker;
  struct Memory {
    GpuMemory device, pinned;
    uint64_t workspace_bytes = 0, pages_bytes = 0;  // of each; then outcomes, pinned alone

    cuda::Workspace workspace() const { return {device.get(), pinned.get(), workspace_bytes}; }
    std::byte** pages() const {
      return reinterpret_cast<std::byte**>(pinned.get() + workspace_bytes);
    }
    std::byte* device_pages() const { return device.get() + workspace_bytes; }
    uint32_t* outcomes() const {
      return reinterpret_cast<uint32_t*>(pinned.get() + workspace_bytes + pages_bytes);
    }
  };
  std::unique_ptr<GpuCodec> codec_;
  std::array<Memory, kGpuJobsUnderWay> memory_;
};

// The codecs of one layout: its own, raw, and those of blocks that were stored with other bits.
class GpuLayout {
 public:
  static constexpr size_t kOtherCodecsMax = 8;

  // Errors as Gpu::make_codec.
  static absl::StatusOr<std::shared_ptr<GpuLayout>> create(std::shared_ptr<Gpu> gpu,
                                                           const KvLayout& layout,
                                                           const CodecSpec& spec);
  GpuJobCodec& own() const { return *own_; }
  GpuJobCodec& raw() const { return *raw_; }
  // What a codec must be to read a block as stored: its bits, offsets and exact tokens.
  CodecSpec spec_of(const EncodedBlock& block) const;
  // Made at first use, which takes memory of the device. FailedPrecondition for another family or
  // rotation than this layout's, ResourceExhausted beyond kOtherCodecsMax.
  absl::StatusOr<GpuJobCodec*> codec_of(const CodecSpec& block);

 private:
  std::shared_ptr<Gpu> gpu_;
  KvLayout layout_;
  CodecSpec spec_;
  std::unique_ptr<GpuJobCodec> own_, raw_;
  std::mutex mutex_;
  std::vector<std::pair<CodecSpec, std::unique_ptr<GpuJobCodec>>> others_;  // guarded by mutex_
};

struct GpuJobBlock {
  cuda::Block block;
  std::shared_ptr<void> hold;  // of what `staged` or `block` points to, if nothing else holds it
  KvPages pages;
  // The block is copied there once encoded, or from there to be decoded. Null: it is not copied.
  std::byte* staged = nullptr;
};

struct GpuJob {
  GpuJobCodec* codec = nullptr;
  std::vector<GpuJobBlock> blocks;  // at most kGpuJobBlocksMax, whose pages have the same strides
  // On hadal-gpu. With a cuda::Outcome a block where the status is Ok.
  std::function<void(const absl::Status&, absl::Span<const uint32_t>)> done;
};

// What a block's cuda::Outcome says of its key. DataLoss where the block is another, or damaged.
absl::Status outcome_status(uint32_t outcome);

struct GpuTask {
  // Makes the job when its turn has come, on hadal-gpu; one without blocks is left out. It claims
  // the keys: until then they are pending, and end by their deadline whatever the device does.
  std::function<GpuJob()> build;
  Priority priority = Priority::normal;
  // An engine's event, or null: the turn comes once that has happened. By the deadline it never
  // does, and the task is dropped.
  cudaEvent_t ready = nullptr;
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
};

class GpuWorker {
 public:
  // Errors as Gpu::make_stream.
  static absl::StatusOr<std::unique_ptr<GpuWorker>> create(std::shared_ptr<Gpu> gpu,
                                                           absl::Duration patience);
  ~GpuWorker() { stop(); }
  GpuWorker(const GpuWorker&) = delete;
  GpuWorker& operator=(const GpuWorker&) = delete;

  void decode(GpuTask task) { submit(std::move(task), Kind::decode); }
  void encode(GpuTask task) { submit(std::move(task), Kind::encode); }

  // Whether the device was given up.
  bool is_broken() const { return is_broken_; }

  // Ends the jobs under way, drops the rest and every later one. Answers whether the device is done
  // with all that it was given.
  bool stop();

 private:
  enum class Kind : uint8_t { decode, encode };
  using Queue = std::map<std::tuple<uint8_t, Kind, uint64_t>, GpuTask>;  // by rank, kind and age
  struct UnderWay {
    GpuJob job;
    std::unique_ptr<GpuMark> mark;
    absl::Status started;
    size_t memory = 0;
    std::chrono::steady_clock::time_point since;  // it can have begun
  };

  struct Abandoned;
  struct Streams {
    std::unique_ptr<GpuStream> compute, copies;
  };
  GpuWorker(std::shared_ptr<Gpu> gpu, Streams streams, absl::Duration patience);
  void submit(GpuTask task, Kind kind);
  void run();
  Queue::iterator next_task(Queue& dropped);  // with mutex_ held
  void start(Kind kind, const GpuTask& task);
  absl::Status start_work(Kind kind, const GpuJob& job, const GpuJobCodec::Memory& memory);
  bool end_oldest();
  void give_up(const absl::Status& why);

  const std::shared_ptr<Gpu> gpu_;
  const absl::Duration patience_;
  std::atomic<bool> is_broken_{false};
  // Of hadal-gpu alone, from here.
  Streams streams_;
  std::deque<UnderWay> under_way_;
  std::deque<UnderWay> abandoned_;  // the device may still work on these
  absl::Status broken_;
  uint64_t started_ = 0;

  std::mutex mutex_;
  std::condition_variable wake_;
  Queue tasks_;
  uint64_t submitted_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace hadal
