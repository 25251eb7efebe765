#include "tests/client/host_gpu.h"

#include <cstring>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/kernels/cuda_batch_example.h"

namespace hadal {
namespace {

constexpr size_t kGpuAlignment = 256;
constexpr uint32_t kCtaCount = 3;

GpuMemory aligned_memory(uint64_t bytes) {
  auto* const memory =
      static_cast<std::byte*>(::operator new(bytes, std::align_val_t(kGpuAlignment)));
  std::memset(memory, 0xee, bytes);
  return {memory, [](std::byte* at) { ::operator delete(at, std::align_val_t(kGpuAlignment)); }};
}

class HostMark final : public GpuMark {
 public:
  explicit HostMark(std::shared_ptr<HostEvent> event) : event_(std::move(event)) {}
  absl::StatusOr<bool> reached() const override { return event_->happened(); }

 private:
  const std::shared_ptr<HostEvent> event_;
};

class HostStream final : public GpuStream {
 public:
  explicit HostStream(HostGpu& gpu) : gpu_(gpu), thread_([this] { run(); }) {}
  ~HostStream() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      wake_.notify_all();
    }
    thread_.join();
  }

  absl::Status follow(GpuStream& other) override {
    add([event = static_cast<HostStream&>(other).record()] { event->wait(); });
    return absl::OkStatus();
  }
  absl::Status copy(std::byte* to, const std::byte* from, uint64_t bytes) override {
    add([this, to, from, bytes] {
      std::memcpy(to, from, bytes);
      ++gpu_.copies;
    });
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<GpuMark>> mark() override {
    return std::make_unique<HostMark>(record());
  }
  void add(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    work_.push_back(std::move(work));
    wake_.notify_all();
  }

 private:
  std::shared_ptr<HostEvent> record() {
    auto event = std::make_shared<HostEvent>();
    add([event] { event->happen(); });
    return event;
  }
  void run() {
    std::mt19937 random(1);
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stopping_ || !work_.empty(); });
      if (work_.empty()) return;
      const std::function<void()> work = std::move(work_.front());
      work_.pop_front();
      lock.unlock();
      while (gpu_.frozen) absl::SleepFor(absl::Milliseconds(1));
      absl::SleepFor(absl::Microseconds(random() % 100));
      work();
      lock.lock();
    }
  }

  HostGpu& gpu_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> work_;
  bool stopping_ = false;
  std::thread thread_;
};

class HostGpuCodec final : public GpuCodec {
 public:
  HostGpuCodec(HostGpu& gpu, cuda::Planner planner) : gpu_(gpu), planner_(std::move(planner)) {}
  const cuda::Planner& planner() const override { return planner_; }

  absl::Status encode(const cuda::Batch& batch, const cuda::Workspace& workspace,
                      GpuStream& stream) const override {
    return start(batch, workspace, stream, [this](const cuda::PlannedWork& work) {
      cuda::run_encode_on_host(planner_, work, kCtaCount);
      ++gpu_.encodes;
    });
  }
  absl::Status decode(const cuda::Batch& batch, const cuda::Workspace& workspace,
                      GpuStream& stream) const override {
    return start(batch, workspace, stream, [this](const cuda::PlannedWork& work) {
      cuda::run_decode_on_host(planner_, work, kCtaCount, work.launch.layer_count);
      ++gpu_.decodes;
    });
  }

 private:
  template <typename Kernels>
  absl::Status start(const cuda::Batch& batch, const cuda::Workspace& workspace, GpuStream& stream,
                     Kernels kernels) const {
    absl::StatusOr<cuda::PlannedWork> work = planner_.plan(batch, workspace);
    if (!work.ok()) return work.status();
    static_cast<HostStream&>(stream).add(
        [work = *work, workspace, kernels, outcomes = batch.outcomes, count = batch.blocks.size()] {
          std::memcpy(workspace.device, workspace.host, work.copy_bytes);
          kernels(work);
          std::copy_n(work.launch.outcomes, count, outcomes);
        });
    return absl::OkStatus();
  }

  HostGpu& gpu_;
  const cuda::Planner planner_;
};

}  // namespace

void HostEvent::happen() {
  const std::lock_guard lock(mutex_);
  happened_ = true;
  wake_.notify_all();
}
bool HostEvent::happened() const {
  const std::lock_guard lock(mutex_);
  return happened_;
}
void HostEvent::wait() const {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [this] { return happened_; });
}

absl::StatusOr<bool> HostGpu::happened(cudaEvent_t event) {
  return reinterpret_cast<const HostEvent*>(event)->happened();
}

absl::StatusOr<GpuMemory> HostGpu::allocate_device(uint64_t bytes) {
  if (device_bytes_.fetch_add(bytes) + bytes > device_bytes_max) {
    return absl::ResourceExhaustedError(absl::StrCat("no ", bytes, " bytes on the device"));
  }
  ++allocations;
  GpuMemory memory = aligned_memory(bytes);
  const std::lock_guard lock(mutex_);
  memories_.push_back(absl::MakeSpan(memory.get(), bytes));
  return memory;
}

absl::Span<std::byte> HostGpu::memory_of(uint64_t bytes) const {
  const std::lock_guard lock(mutex_);
  for (auto at = memories_.rbegin(); at != memories_.rend(); ++at) {
    if (at->size() == bytes) return *at;
  }
  return {};
}

absl::StatusOr<GpuMemory> HostGpu::allocate_pinned(uint64_t bytes) {
  ++allocations;
  return aligned_memory(bytes);
}

absl::Status HostGpu::pin(absl::Span<std::byte>) {
  pinned = true;
  return absl::OkStatus();
}

void HostGpu::unpin(absl::Span<std::byte>) { pinned = false; }

absl::StatusOr<std::unique_ptr<GpuStream>> HostGpu::make_stream() {
  return std::make_unique<HostStream>(*this);
}

absl::StatusOr<std::unique_ptr<GpuCodec>> HostGpu::make_codec(const KvLayout& layout,
                                                              const CodecSpec& spec) {
  absl::StatusOr<cuda::Planner> planner = cuda::Planner::create(layout, spec);
  if (!planner.ok()) return planner.status();
  return std::make_unique<HostGpuCodec>(*this, *std::move(planner));
}

}  // namespace hadal
