// Another program that speaks UCX connects: messages that our own transport cannot form.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <ucp/api/ucp.h>

#include <cstring>

#include "tests/transport/block_fixture.h"

namespace hadal {
namespace {

// A bare UCX client.
class BareClient {
 public:
  explicit BareClient(uint16_t port) {
    ucp_config_t* config = nullptr;
    EXPECT_EQ(ucp_config_read(nullptr, nullptr, &config), UCS_OK);
    ucp_config_modify(config, "TLS", "tcp");
    ucp_params_t params = {};
    params.field_mask = UCP_PARAM_FIELD_FEATURES;
    params.features = UCP_FEATURE_AM;
    EXPECT_EQ(ucp_init(&params, config, &context_), UCS_OK);
    ucp_config_release(config);
    ucp_worker_params_t worker_params = {};
    EXPECT_EQ(ucp_worker_create(context_, &worker_params, &worker_), UCS_OK);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ucp_ep_params_t endpoint_params = {};
    endpoint_params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR |
                                 UCP_EP_PARAM_FIELD_ERR_HANDLER |
                                 UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
    endpoint_params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
    endpoint_params.sockaddr = {reinterpret_cast<const sockaddr*>(&address), sizeof(address)};
    endpoint_params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    endpoint_params.err_handler = {[](void*, ucp_ep_h, ucs_status_t) {}, nullptr};
    EXPECT_EQ(ucp_ep_create(worker_, &endpoint_params, &endpoint_), UCS_OK);
  }
  ~BareClient() {
    ucp_request_param_t param = {};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_EP_CLOSE_FLAG_FORCE;
    const ucs_status_ptr_t closing = ucp_ep_close_nbx(endpoint_, &param);
    if (UCS_PTR_IS_PTR(closing)) {
      eventually(
          [&] { return ucp_request_check_status(closing) != UCS_INPROGRESS || !progress(); });
      ucp_request_free(closing);
    }
    ucp_worker_destroy(worker_);
    ucp_cleanup(context_);
  }
  bool progress() {
    ucp_worker_progress(worker_);
    return true;
  }
  // The bytes must live on.
  void send(absl::Span<const char> header, absl::Span<const char> payload) {
    ucp_request_param_t param = {};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_AM_SEND_FLAG_REPLY;
    const ucs_status_ptr_t request = ucp_am_send_nbx(endpoint_, 1, header.data(), header.size(),
                                                     payload.data(), payload.size(), &param);
    if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
  }

 private:
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_ep_h endpoint_ = nullptr;
};

TEST(UcxWire, HeaderOfAnotherSizeClosesTheConnection) {
  static const std::vector<char> bytes(1 << 20, 'x');
  for (const size_t header : {0, 10, 63, 65, 500}) {
    for (const size_t payload : {0, 100, 1 << 20}) {
      const auto node = start_server(Carrier::tcp);
      BareClient client(node->server->port());
      client.send(absl::MakeSpan(bytes).first(header), absl::MakeSpan(bytes).first(payload));
      EXPECT_TRUE(eventually([&] {
        return client.progress() && node->transport->stats().protocol_errors == 1 &&
               node->server->peer_count() == 0;
      })) << header
          << " header bytes, " << payload << " payload bytes";
    }
  }
}

}  // namespace
}  // namespace hadal
