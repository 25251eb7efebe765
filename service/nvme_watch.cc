#include "service/nvme_watch.h"

#include <sys/statvfs.h>

#include "absl/strings/str_cat.h"

namespace hadal {

NvmeWatch::NvmeWatch(const Config& config, absl::Duration pause)
    : config_(config.store.nvme), pause_(pause) {}

std::optional<NvmeTrouble> NvmeWatch::look(const StoreStats& stats, absl::Time now) {
  NvmeTrouble trouble;
  trouble.dropped_blocks = stats.nvme_dropped_blocks - told_dropped_blocks_;
  trouble.write_errors = stats.nvme_write_errors - told_write_errors_;
  trouble.lost_blocks = stats.nvme_lost_blocks - told_lost_blocks_;
  trouble.repairs = stats.nvme_repairs - told_repairs_;
  const bool well = trouble.dropped_blocks == 0 && trouble.write_errors == 0 &&
                    trouble.lost_blocks == 0 && trouble.repairs == 0;
  if (well || now < told_ + pause_) return std::nullopt;
  told_dropped_blocks_ = stats.nvme_dropped_blocks;
  told_write_errors_ = stats.nvme_write_errors;
  told_lost_blocks_ = stats.nvme_lost_blocks;
  told_repairs_ = stats.nvme_repairs;
  told_ = now;
  trouble.reason = reason(trouble);
  return trouble;
}

std::string NvmeWatch::reason(const NvmeTrouble& trouble) const {
  if (trouble.repairs > 0 || trouble.lost_blocks > 0) {
    return "the directory was damaged or its disk fails, and it was opened again; blocks that were "
           "lost are misses, and none is served wrong; test the disk";
  }
  struct statvfs info = {};
  double free = 1;
  if (statvfs(config_.path.c_str(), &info) == 0 && info.f_blocks > 0) {
    free = static_cast<double>(info.f_bavail) / static_cast<double>(info.f_blocks);
  }
  if (info.f_blocks > 0 && (info.f_bavail == 0 || free < config_.free_space_min_fraction)) {
    return absl::StrCat("the file system has ", static_cast<int>(100 * free),
                        "% free, nvme.free_space_min_fraction is ", config_.free_space_min_fraction,
                        "; free space, or lower nvme.capacity and restart");
  }
  if (trouble.write_errors > 0) {
    return "writing failed: the disk was full or is failing; look at its free space and at the "
           "kernel's log";
  }
  return "the disk is slower than the puts, or blocks are larger than a memtable; raise "
         "nvme.queue_max or nvme.memtable, or use a faster disk";
}

}  // namespace hadal
