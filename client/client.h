#pragma once

// The client library that serving nodes link (libhadal.so): asynchronous, batch first.
//
// A submit never blocks on the network: it answers a RequestId, or InvalidArgument for a call that
// is wrong by itself. The request then ends exactly once, by its deadline, with a status per key;
// its end is signalled on event_fd() and fetched with wait() or drain(). A dead, frozen or slow
// node is a per-key miss with its reason.
//
// Memory: the network writes only into the client's own registered staging slots. The caller's
// pages are written by the decoder, after verification and never once the request has ended. Pages
// of a put stay unchanged until the request has ended. Threads: any; the client owns "hadal-io",
// "hadal-timer" (deadlines, staging memory), "hadal-codec<n>" and, where it has a GPU, "hadal-gpu".
// No gRPC, no protobuf inside.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/block_key.h"
#include "common/block_ops.h"
#include "common/codec_spec.h"
#include "common/kv_layout.h"
#include "common/node_address.h"
#include "common/prefix_rules.h"
#include "kernels/codec.h"
#include "transport/block_peer.h"

typedef struct CUevent_st* cudaEvent_t;  // as cuda_runtime_api.h declares it

namespace hadal {

class Gpu;  // kernels/gpu.h

// A GPU whose memory holds an engine's pages (docs/hbm.md).
struct GpuConfig {
  std::shared_ptr<Gpu> device;  // null: none
  uint64_t hbm_bytes = 0;       // of encoded blocks that stay there; 0: no tier
  // Puts go to the wire from HBM where UCX was built with CUDA. Off, since it was never tried.
  bool send_from_hbm = false;
  // A device that has not finished a job by then is given up: later requests end Unavailable.
  absl::Duration patience = absl::Seconds(10);
};

struct ClientConfig {
  std::vector<NodeAddress> nodes;  // at least one
  std::string transport = "auto";  // UCX transports: auto, tcp; or loopback:<network>, for tests
  uint64_t staging_bytes = 128u << 20;  // registered memory for blocks in flight
  int codec_threads = 1;
  BlockPeerConfig peer;
  GpuConfig gpu;
};

// One kind of KV block that an engine stores, registered once.
struct LayoutConfig {
  KvLayout layout;
  CodecSpec codec;
  std::string model;        // fingerprint of weights, adapter and whatever else changes KV
  std::string hash_scheme;  // how the engine chains block hashes
  std::string tenant;
  KeyShard shard;
  bool on_gpu = false;  // pages are memory of ClientConfig.gpu; those of a batch have equal strides
};
using LayoutId = uint32_t;
using RequestId = uint64_t;

struct RequestOptions {
  absl::Duration timeout = absl::Seconds(1);
  bool no_store = false;  // a put ends at once, all keys Cancelled, nothing sent
  bool no_load = false;   // a lookup or get ends at once, all keys misses, nothing sent
  Precision least;        // lookup, get: less precise is a miss
  uint32_t lease_ms = 0;  // lookup: pin what is found for this long
  // Goes before requests of lower priority that wait for staging memory, a codec thread or, on
  // this client's connection, the node's reads; nothing that has begun is interrupted.
  Priority priority = Priority::normal;
  // Of a layout on the GPU: pages are not touched before this event has happened. It lives, and is
  // not recorded again, until the request has ended. Null: they may be touched at once.
  cudaEvent_t ready = nullptr;
};

// One layer group's part of a lookup: its blocks from the start of the sequence, in order, and what
// it needs of them before the sequence can go on (docs/client.md).
struct GroupLookup {
  LayoutId layout = 0;
  absl::Span<const EngineHash> hashes;
  absl::Span<const EngineHash> routes;  // as the puts gave: one a hash, or none at all
  PrefixRule rule = PrefixRule::full_prefix;
  uint64_t window_tokens = 0;  // of last_tokens
  // Of opaque bytes, whose layout has none; else 0. Where it is 0 for opaque bytes, these are no
  // tokens, and the lookup's prefix_tokens is 0.
  uint32_t block_tokens = 0;
  // Tokens of all these blocks together, where the last one may be short; 0: every block is whole.
  uint64_t token_count = 0;
};

// A block's values: `pages` for a layout with a dtype, `opaque` for opaque bytes. Borrowed until
// the request has ended, the pointer arrays inside pages too.
struct BlockPut {
  EngineHash hash;
  KvPages pages;
  absl::Span<const std::byte> opaque;
  uint32_t token_count = 0;
  uint64_t first_token_index = UINT64_MAX;  // 0 starts a sequence
  // What the node may know of the block's place (docs/storage.md): the block before it in its
  // sequence, and a digest of the token ids it covers, 0 where unknown. A put of a key that holds a
  // block of another known digest is FailedPrecondition.
  std::optional<EngineHash> parent;
  uint64_t token_digest = 0;
  // Chooses the node in place of the block's own hash; all that name this block give the same.
  std::optional<EngineHash> route;
};

struct BlockGet {
  EngineHash hash;
  KvPages pages;
  absl::Span<std::byte> opaque;  // at least as large as the stored payload
  // Tokens that `pages` have room for; a stored block with more is InvalidArgument, unwritten. 0:
  // the layout's block_tokens.
  uint32_t token_capacity = 0;
  std::optional<EngineHash> route;  // as the put gave
  uint64_t token_digest = 0;        // a stored block of another known digest is a miss; 0: any
};

// How one key of a request ended. Ok: found, stored (or was there already) or loaded. NotFound: a
// miss. DeadlineExceeded, Unavailable, DataLoss, Cancelled, ResourceExhausted: a miss with its
// reason. Of a put also Aborted: another put of the key is in flight; FailedPrecondition: the key
// holds other tokens, or the node found the bytes to be another block than it was offered. Of a put
// or get InvalidArgument: the block does not fit its offer, or the memory given.
struct KeyResult {
  absl::Status status;
  Tier tier = Tier::none;
  uint32_t encoded_bytes = 0;  // of the block as stored or served
  uint64_t raw_bytes = 0;      // it decodes to; opaque: the payload's size
  uint64_t wire_bytes = 0;     // payload that moved for this key in this request
  Precision precision;
  bool duplicate = false;   // put: already stored, no payload moved
  bool non_finite = false;  // put: held NaN or infinity, stored raw
};

struct RequestResult {
  RequestId id = 0;
  std::vector<KeyResult> keys;   // as submitted; of a lookup group after group
  size_t prefix_blocks = 0;      // leading keys that are Ok
  uint64_t prefix_tokens = 0;    // lookup: the longest length that all groups satisfy
  std::vector<uint64_t> leases;  // lookup with lease_ms: one a node that pinned, 0 where none
};

struct ClientStats {
  uint64_t keys_looked_up = 0, keys_found = 0;
  uint64_t keys_put = 0, keys_put_duplicate = 0, keys_put_failed = 0, keys_non_finite = 0;
  uint64_t keys_got = 0, keys_missed = 0;
  uint64_t misses_deadline = 0, misses_unavailable = 0, misses_data_loss = 0;
  uint64_t wire_bytes_put = 0, wire_bytes_get = 0;
  uint64_t raw_bytes_put = 0, raw_bytes_get = 0;
  uint64_t hbm_capacity_bytes = 0, hbm_used_bytes = 0;
  uint64_t hbm_blocks = 0, hbm_hits = 0, hbm_evicted_blocks = 0;
};

class Client {
 public:
  // Starts threads and connecting; does not wait for nodes. InvalidArgument names the setting.
  static absl::StatusOr<std::unique_ptr<Client>> create(const ClientConfig& config);
  virtual ~Client() = default;

  virtual absl::StatusOr<LayoutId> register_layout(const LayoutConfig& config) = 0;

  // All groups together in one message a node. They have 1 to 4,096 hashes, each group at least 1.
  virtual absl::StatusOr<RequestId> lookup(absl::Span<const GroupLookup> groups,
                                           const RequestOptions& options) = 0;
  virtual absl::StatusOr<RequestId> put(LayoutId layout, absl::Span<const BlockPut> blocks,
                                        const RequestOptions& options) = 0;
  virtual absl::StatusOr<RequestId> get(LayoutId layout, absl::Span<const BlockGet> blocks,
                                        const RequestOptions& options) = 0;

  // Waits for one request and hands out its result, once. NotFound: no such request, or its result
  // was handed out. Returns by the request's own deadline plus the time to finish the block being
  // decoded.
  virtual absl::StatusOr<RequestResult> wait(RequestId request) = 0;

  // Results of all requests that have ended and were not handed out. Never blocks.
  virtual std::vector<RequestResult> drain() = 0;

  // Readable while a result waits for drain. Owned by the client.
  virtual int event_fd() const = 0;

  // Ends a request: keys that have not ended become Cancelled. Its result still comes.
  virtual void cancel(RequestId request) = 0;

  // The engine found what a get delivered to be wrong: the node checks the block and drops it if
  // damaged. `route` as the put gave.
  virtual void report_bad(LayoutId layout, const EngineHash& hash,
                          const std::optional<EngineHash>& route) = 0;

  // Gives a lookup's leases back early.
  virtual void release(const RequestResult& lookup) = 0;

  virtual ClientStats stats() const = 0;

  // Per configured node: how its connection is, for people.
  struct NodeStatus {
    NodeAddress node;
    PeerState state;
    std::string last_error;
  };
  virtual std::vector<NodeStatus> nodes() const = 0;

  // What carries the bytes, as Transport::description.
  virtual std::string transport_description() const = 0;
};

}  // namespace hadal
