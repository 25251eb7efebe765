#pragma once

#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "common/block_key.h"
#include "common/node_address.h"

namespace hadal {

// Which node owns a key: weighted rendezvous hashing (Schindelhauer and Schomaker 2005, logarithmic
// method: highest -weight / ln(u), with u uniform from a hash of key and node). A node that leaves
// moves only its own keys. Immutable, thread safe. Cost of owner: one hash a node.
class Ring {
 public:
  // InvalidArgument where the list is empty or a weight is not above 0.
  static absl::StatusOr<Ring> create(const std::vector<NodeAddress>& nodes);

  // Index into the list given to create.
  size_t owner(const BlockKey& route_key) const;
  size_t size() const { return members_.size(); }

 private:
  struct Member {
    uint64_t seed;  // hash of host:port, so that order in the list does not matter
    double weight;
  };
  std::vector<Member> members_;
};

}  // namespace hadal
