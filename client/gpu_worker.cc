#include "client/gpu_worker.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "kernels/cuda/outcome.h"

namespace hadal {
namespace {

constexpr auto kPollInterval = std::chrono::microseconds(20);    // of work on the device
constexpr auto kEventInterval = std::chrono::microseconds(100);  // of engines' events
constexpr uint64_t kAlignBytes = 64;
// Whole and short blocks, with and without exact tokens, are four; short ones differ in length.
constexpr uint32_t kShapesMax = kGpuJobBlocksMax;

constexpr uint64_t aligned(uint64_t bytes) {
  return (bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes;
}

// Of one family and rotation, however the bits of their layers are said.
bool are_alike(const CodecSpec& a, const CodecSpec& b, int layer_count) {
  if (a.key_offsets != b.key_offsets || a.exact_tokens != b.exact_tokens) return false;
  for (int layer = 0; layer < layer_count; ++layer) {
    const LayerBits of_a = a.bits_of_layer(layer), of_b = b.bits_of_layer(layer);
    if (of_a.key_bits != of_b.key_bits || of_a.value_bits != of_b.value_bits) return false;
  }
  return true;
}

std::array<cuda::SideStrides, 2> strides_of(const KvPages& pages) {
  return {{{pages.key.token_stride_bytes, pages.key.head_stride_bytes},
           {pages.value.token_stride_bytes, pages.value.head_stride_bytes}}};
}

}  // namespace

absl::StatusOr<std::unique_ptr<GpuJobCodec>> GpuJobCodec::create(Gpu& gpu, const KvLayout& layout,
                                                                 const CodecSpec& spec) {
  absl::StatusOr<std::unique_ptr<GpuCodec>> codec = gpu.make_codec(layout, spec);
  if (!codec.ok()) return codec.status();
  auto made = std::make_unique<GpuJobCodec>();
  made->codec_ = *std::move(codec);
  for (Memory& memory : made->memory_) {
    memory.workspace_bytes = aligned(made->planner().workspace_bytes(kGpuJobBlocksMax, kShapesMax));
    memory.pages_bytes = aligned(kGpuJobBlocksMax * layout.layer_count * 2 * sizeof(std::byte*));
    const uint64_t bytes = memory.workspace_bytes + memory.pages_bytes;
    absl::StatusOr<GpuMemory> device = gpu.allocate_device(bytes);
    if (!device.ok()) return device.status();
    absl::StatusOr<GpuMemory> pinned =
        gpu.allocate_pinned(bytes + kGpuJobBlocksMax * sizeof(uint32_t));
    if (!pinned.ok()) return pinned.status();
    memory.device = *std::move(device);
    memory.pinned = *std::move(pinned);
  }
  return made;
}

absl::StatusOr<std::shared_ptr<GpuLayout>> GpuLayout::create(std::shared_ptr<Gpu> gpu,
                                                             const KvLayout& layout,
                                                             const CodecSpec& spec) {
  auto made = std::make_shared<GpuLayout>();
  made->gpu_ = std::move(gpu);
  made->layout_ = layout;
  made->spec_ = spec;
  absl::StatusOr<CodecSpec> raw = parse_codec("raw");
  if (!raw.ok()) return raw.status();
  absl::StatusOr<std::unique_ptr<GpuJobCodec>> own = GpuJobCodec::create(*made->gpu_, layout, spec);
  if (!own.ok()) return own.status();
  absl::StatusOr<std::unique_ptr<GpuJobCodec>> of_raw =
      GpuJobCodec::create(*made->gpu_, layout, *raw);
  if (!of_raw.ok()) return of_raw.status();
  made->own_ = *std::move(own);
  made->raw_ = *std::move(of_raw);
  return made;
}

CodecSpec GpuLayout::spec_of(const EncodedBlock& block) const {
  CodecSpec spec = block.codec();
  if (spec.family == CodecFamily::raw) return spec;
  // A block knows how many of its tokens are exact, and a codec how many a sequence begins with.
  const BlockHeader& header = block.header();
  const bool starts = header.first_token_index == 0;
  if (!starts || spec.exact_tokens == std::min<uint32_t>(spec_.exact_tokens, header.token_count)) {
    spec.exact_tokens = spec_.exact_tokens;
  }
  return spec;
}

absl::StatusOr<GpuJobCodec*> GpuLayout::codec_of(const CodecSpec& block) {
  if (block.family == CodecFamily::raw) return raw_.get();
  if (block.family != spec_.family || block.rotation_seed != spec_.rotation_seed ||
      block.gaussian_projection != spec_.gaussian_projection) {
    return absl::FailedPreconditionError(
        absl::StrCat("block has codec ", block.name(), "; this layout's is ", spec_.name()));
  }
  if (are_alike(block, spec_, layout_.layer_count)) return own_.get();
  const std::lock_guard lock(mutex_);
  for (const auto& [spec, codec] : others_) {
    if (are_alike(block, spec, layout_.layer_count)) return codec.get();
  }
  if (others_.size() == kOtherCodecsMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("block has codec ", block.name(), ", one more than the ", kOtherCodecsMax,
                     " beside this layout's own that are decoded on a GPU"));
  }
  absl::StatusOr<std::unique_ptr<GpuJobCodec>> codec = GpuJobCodec::create(*gpu_, layout_, block);
  if (!codec.ok()) return codec.status();
  return others_.emplace_back(block, *std::move(codec)).second.get();
}

absl::Status outcome_status(uint32_t outcome) {
  switch (static_cast<cuda::Outcome>(outcome)) {
    case cuda::Outcome::ok:
      return absl::OkStatus();
    case cuda::Outcome::bad_page:
      return absl::InvalidArgumentError(
          "a page is null or lies at no multiple of its dtype, as the GPU sees it");
    case cuda::Outcome::is_another:
      return absl::DataLossError("the GPU found another block than its header said");
    case cuda::Outcome::checksum_differs:
      return absl::DataLossError("the GPU found a checksum that differs");
    case cuda::Outcome::non_finite:
      break;
  }
  return absl::InternalError(absl::StrCat("the GPU answered outcome ", outcome));
}

// What a device that was given up may still use: kept to the end of the process.
struct GpuWorker::Abandoned {
  Streams streams;
  std::deque<UnderWay> jobs;

  static void keep(Abandoned abandoned) {
    static std::mutex mutex;
    static auto& kept = *new std::deque<Abandoned>;
    const std::lock_guard lock(mutex);
    kept.push_back(std::move(abandoned));
  }
};

absl::StatusOr<std::unique_ptr<GpuWorker>> GpuWorker::create(std::shared_ptr<Gpu> gpu,
                                                             absl::Duration patience) {
  absl::StatusOr<std::unique_ptr<GpuStream>> compute = gpu->make_stream();
  if (!compute.ok()) return compute.status();
  absl::StatusOr<std::unique_ptr<GpuStream>> copies = gpu->make_stream();
  if (!copies.ok()) return copies.status();
  Streams streams = {*std::move(compute), *std::move(copies)};
  return std::unique_ptr<GpuWorker>(new GpuWorker(std::move(gpu), std::move(streams), patience));
}

GpuWorker::GpuWorker(std::shared_ptr<Gpu> gpu, Streams streams, absl::Duration patience)
    : gpu_(std::move(gpu)), patience_(patience), streams_(std::move(streams)) {
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "hadal-gpu");
}

void GpuWorker::submit(GpuTask task, Kind kind) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return;
  const auto key = std::make_tuple(priority_rank(task.priority), kind, submitted_++);
  tasks_.emplace(key, std::move(task));
  wake_.notify_one();
}

// The first task whose event has happened. Those whose deadline has passed go to `dropped`, which
// the caller destroys without the lock: they own slots.
GpuWorker::Queue::iterator GpuWorker::next_task(Queue& dropped) {
  const auto now = std::chrono::steady_clock::now();
  for (auto at = tasks_.begin(); at != tasks_.end();) {
    const GpuTask& task = at->second;
    if (task.ready == nullptr) return at;
    if (now >= task.deadline) {
      dropped.insert(tasks_.extract(at++));
      continue;
    }
    if (gpu_->happened(task.ready).value_or(false)) return at;
    ++at;
  }
  return tasks_.end();
}

void GpuWorker::run() {
  if (absl::Status status = gpu_->adopt_thread(); !status.ok()) give_up(status);
  std::unique_lock lock(mutex_);
  while (!stopping_ || !under_way_.empty()) {
    Queue dropped;
    const bool has_room = !stopping_ && under_way_.size() < kGpuJobsUnderWay;
    if (const auto next = has_room ? next_task(dropped) : tasks_.end(); next != tasks_.end()) {
      const Kind kind = std::get<Kind>(next->first);
      GpuTask task = std::move(next->second);
      tasks_.erase(next);
      lock.unlock();
      start(kind, task);
      task = {};
      dropped.clear();
      lock.lock();
      continue;
    }
    lock.unlock();
    dropped.clear();
    const bool ended = !under_way_.empty() && end_oldest();
    lock.lock();
    if (ended) continue;
    if (!under_way_.empty() || !tasks_.empty()) {
      // Woken early by another task, which may be started meanwhile.
      wake_.wait_for(lock, under_way_.empty() ? kEventInterval : kPollInterval);
    } else {
      wake_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
    }
  }
}

void GpuWorker::start(Kind kind, const GpuTask& task) {
  GpuJob job = task.build();
  if (job.blocks.empty()) return;
  if (!broken_.ok()) return job.done(broken_, {});
  UnderWay under_way;
  under_way.memory = started_++ % kGpuJobsUnderWay;
  under_way.since = std::chrono::steady_clock::now();
  under_way.started = start_work(kind, job, job.codec->memory_[under_way.memory]);
  under_way.job = std::move(job);
  // After an error too: part of the work may be under way, in memory that must not go before.
  absl::StatusOr<std::unique_ptr<GpuMark>> mark =
      (kind == Kind::encode ? streams_.copies : streams_.compute)->mark();
  under_way_.push_back(std::move(under_way));
  if (!mark.ok()) return give_up(mark.status());
  under_way_.back().mark = *std::move(mark);
}

absl::Status GpuWorker::start_work(Kind kind, const GpuJob& job,
                                   const GpuJobCodec::Memory& memory) {
  const KvLayout& layout = job.codec->planner().layout();
  std::vector<cuda::Block> blocks;
  std::byte** pages = memory.pages();
  for (const GpuJobBlock& one : job.blocks) {
    blocks.push_back(one.block);
    for (int layer = 0; layer < layout.layer_count; ++layer) {
      *pages++ = one.pages.key.layers[layer];
      *pages++ = one.pages.value.layers[layer];
    }
  }
  cuda::Batch batch;
  batch.blocks = blocks;
  batch.pages = reinterpret_cast<std::byte* const*>(memory.device_pages());
  batch.strides = strides_of(job.blocks[0].pages);
  batch.outcomes = memory.outcomes();
  const GpuCodec& codec = *job.codec->codec_;
  absl::Status status;
  const auto copy_blocks = [&](bool to_staged) {
    for (const GpuJobBlock& one : job.blocks) {
      if (one.staged == nullptr || !status.ok()) continue;
      std::byte* const encoded = one.block.encoded;
      status = streams_.copies->copy(to_staged ? one.staged : encoded,
                                     to_staged ? encoded : one.staged, one.block.encoded_bytes);
    }
  };
  // After an error too, both ways: the mark of this job is behind all of its work.
  if (kind == Kind::decode) {
    copy_blocks(false);
    const absl::Status followed = streams_.compute->follow(*streams_.copies);
    if (status.ok()) status = followed;
  }
  if (status.ok()) {
    auto* const table = reinterpret_cast<std::byte*>(memory.pages());
    const auto bytes = static_cast<uint64_t>(reinterpret_cast<std::byte*>(pages) - table);
    status = streams_.compute->copy(memory.device_pages(), table, bytes);
  }
  if (!status.ok()) return status;
  if (kind == Kind::decode) return codec.decode(batch, memory.workspace(), *streams_.compute);
  status = codec.encode(batch, memory.workspace(), *streams_.compute);
  const absl::Status followed = streams_.copies->follow(*streams_.compute);
  if (status.ok()) status = followed;
  if (status.ok()) copy_blocks(true);
  return status;
}

// Whether the oldest job has ended.
bool GpuWorker::end_oldest() {
  UnderWay& oldest = under_way_.front();
  const absl::StatusOr<bool> reached = oldest.mark->reached();
  if (!reached.ok()) {
    give_up(reached.status());
    return true;
  }
  if (!*reached) {
    const auto since = std::chrono::steady_clock::now() - oldest.since;
    if (absl::FromChrono(since) < patience_) return false;
    give_up(absl::DeadlineExceededError(
        absl::StrCat("a job took more than ", absl::FormatDuration(patience_))));
    return true;
  }
  const UnderWay ended = std::move(oldest);
  under_way_.pop_front();
  if (!under_way_.empty()) under_way_.front().since = std::chrono::steady_clock::now();
  const uint32_t* outcomes = ended.job.codec->memory_[ended.memory].outcomes();
  ended.job.done(ended.started, absl::MakeConstSpan(outcomes, ended.job.blocks.size()));
  return true;
}

void GpuWorker::give_up(const absl::Status& why) {
  is_broken_ = true;
  broken_ = absl::UnavailableError(absl::StrCat("the GPU was given up: ", why.message()));
  for (; !under_way_.empty(); under_way_.pop_front()) {
    under_way_.front().job.done(broken_, {});
    abandoned_.push_back(std::move(under_way_.front()));
  }
}

bool GpuWorker::stop() {
  decltype(tasks_) dropped;  // destroyed outside the lock: tasks own slots
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    dropped.swap(tasks_);
    wake_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  if (broken_.ok()) return true;
  // Destructors would wait for the device, and free what it may still use.
  if (streams_.compute) Abandoned::keep({std::move(streams_), std::move(abandoned_)});
  return false;
}

}  // namespace hadal
