#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/client_core.h"

namespace hadal {
namespace {

// A block that a get with the same `least` would not deliver is a miss here too.
KeyResult lookup_result(const KeyAnswer& answer, const Precision& least) {
  KeyResult result;
  switch (answer.state) {
    case BlockState::present:
      if (!answer.precision.satisfies(least)) {
        result.status = absl::NotFoundError("less precise than asked");
        break;
      }
      result.tier = answer.tier;
      result.encoded_bytes = answer.bytes;
      result.precision = answer.precision;
      break;
    case BlockState::being_written:
      result.status = absl::NotFoundError("the block is being written");
      break;
    default:
      result.status = absl::NotFoundError("no such block");
      break;
  }
  return result;
}

struct NodeLookup {
  CorePtr core;
  RequestPtr request;
  size_t node;
  std::vector<size_t> indices;
  Precision least;
};

void end_lookup(const NodeLookup& lookup, const absl::StatusOr<LookupAnswer>& answer) {
  absl::Status status = answer.status();
  if (status.ok() && answer->keys.size() != lookup.indices.size()) {
    status = absl::DataLossError(absl::StrCat("lookup of ", lookup.indices.size(),
                                              " keys was answered for ", answer->keys.size()));
  }
  if (!status.ok()) {
    status = at_node(*lookup.core, lookup.node, status);
    for (const size_t index : lookup.indices) lookup.request->finish(index, status);
    return;
  }
  // Before the keys: the last key ends the request, and the lease belongs into its result.
  if (answer->lease != 0 && !lookup.request->set_lease(lookup.node, answer->lease)) {
    lookup.core->peers[lookup.node]->release(answer->lease);
  }
  for (size_t i = 0; i < lookup.indices.size(); ++i) {
    lookup.request->finish(lookup.indices[i], lookup_result(answer->keys[i], lookup.least));
  }
}

// Ends the keys that the tier in HBM has; answers the indices of the others. From the last key to
// the first, so that a prefix loses its end before its beginning.
std::vector<size_t> look_up_in_hbm(const ClientCore& core, Request& request,
                                   const Precision& least) {
  std::vector<size_t> missing;
  for (size_t i = request.keys().size(); i-- > 0;) {
    const std::optional<HbmBlock> found = core.find_in_hbm(request.keys()[i], least, 0);
    if (!found.has_value()) {
      missing.push_back(i);
      continue;
    }
    KeyResult result;
    result.tier = Tier::hbm;
    result.encoded_bytes = found->slot->size_bytes();
    result.precision = found->precision;
    request.finish(i, std::move(result));
  }
  std::reverse(missing.begin(), missing.end());
  return missing;
}

}  // namespace

void start_lookup(const CorePtr& core, const RequestPtr& request, const RequestOptions& options) {
  std::vector<std::vector<size_t>> groups =
      core->by_node(request->keys(), look_up_in_hbm(*core, *request, options.least));
  for (size_t node = 0; node < groups.size(); ++node) {
    if (groups[node].empty()) continue;
    std::vector<BlockKey> keys;
    keys.reserve(groups[node].size());
    for (const size_t index : groups[node]) keys.push_back(request->keys()[index].key);
    NodeLookup lookup = {core, request, node, std::move(groups[node]), options.least};
    LookupOptions asked;
    asked.lease_ms = options.lease_ms;
    BlockPeer* const peer = core->peers[node].get();
    const BlockPeer::OperationId operation =
        peer->lookup(std::move(keys), asked, request->operation_options(),
                     [lookup = std::move(lookup)](const absl::StatusOr<LookupAnswer>& answer) {
                       end_lookup(lookup, answer);
                     });
    request->add_operation(peer, operation);
  }
}

}  // namespace hadal
