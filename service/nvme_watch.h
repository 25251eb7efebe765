#pragma once

// Tells people that blocks do not reach NVMe or are lost there, and why: a full disk, a failing or
// damaged one, or a slow one. The node goes on, so nothing else would say so but a counter.
//
// Threads: one. Pure but for asking the file system for its free space.

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "service/config.h"
#include "storage/tiered_store.h"

namespace hadal {

struct NvmeTrouble {
  uint64_t dropped_blocks = 0;  // since it was told last
  uint64_t write_errors = 0;
  uint64_t lost_blocks = 0;
  uint64_t repairs = 0;
  std::string reason;  // what is wrong and what to do
};

class NvmeWatch {
 public:
  // Told at once, then at most once in `pause` while it goes on.
  explicit NvmeWatch(const Config& config, absl::Duration pause = absl::Minutes(1));

  // Nothing where all is well, or was told a moment ago.
  std::optional<NvmeTrouble> look(const StoreStats& stats, absl::Time now);

 private:
  std::string reason(const NvmeTrouble& trouble) const;

  const NvmeConfig config_;
  const absl::Duration pause_;
  uint64_t told_dropped_blocks_ = 0;
  uint64_t told_write_errors_ = 0;
  uint64_t told_lost_blocks_ = 0;
  uint64_t told_repairs_ = 0;
  absl::Time told_ = absl::InfinitePast();
};

}  // namespace hadal
