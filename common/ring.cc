#include "common/ring.h"

#include <array>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/checksum.h"

namespace hadal {

absl::StatusOr<Ring> Ring::create(const std::vector<NodeAddress>& nodes) {
  if (nodes.empty()) {
    return absl::InvalidArgumentError("node list is empty; name at least one host:port");
  }
  Ring ring;
  for (const NodeAddress& node : nodes) {
    if (!(node.weight > 0)) {
      return absl::InvalidArgumentError(absl::StrCat("node ", node.host_port(), " has weight ",
                                                     node.weight, "; allowed is above 0"));
    }
    const std::string name = node.host_port();
    const uint64_t seed =
        hash64(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(name.data()), name.size()));
    ring.members_.push_back({seed, node.weight});
  }
  return ring;
}

size_t Ring::owner(const BlockKey& route_key) const {
  size_t best = 0;
  double best_score = -1;
  for (size_t i = 0; i < members_.size(); ++i) {
    std::array<std::byte, limits::kBlockKeyBytes + sizeof(uint64_t)> bytes;
    std::memcpy(bytes.data(), route_key.bytes.data(), limits::kBlockKeyBytes);
    std::memcpy(bytes.data() + limits::kBlockKeyBytes, &members_[i].seed, sizeof(uint64_t));
    // 53 bits, centred, so that u is inside (0, 1) and the logarithm finite and not 0.
    const double u = (static_cast<double>(hash64(bytes) >> 11) + 0.5) * 0x1.0p-53;
    const double score = -members_[i].weight / std::log(u);
    if (score > best_score) {
      best_score = score;
      best = i;
    }
  }
  return best;
}

}  // namespace hadal
