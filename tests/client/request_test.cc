#include "client/request.h"

#include <gtest/gtest.h>

#include <optional>
#include <thread>

namespace hadal {
namespace {

class RequestTest : public ::testing::Test {
 protected:
  std::unique_ptr<Request> make(size_t key_count) {
    RequestStart start;
    start.id = 7;
    start.kind = RequestKind::get;
    start.keys.resize(key_count);
    start.timeout = absl::Seconds(1);
    start.on_end = [this](RequestResult result) {
      ++ends_;
      result_ = std::move(result);
    };
    return std::make_unique<Request>(std::move(start));
  }

  int ends_ = 0;
  std::optional<RequestResult> result_;
};

TEST_F(RequestTest, EndsOnceWithTheLastKeyAndCountsThePrefix) {
  const auto request = make(3);
  request->finish(0, absl::OkStatus());
  request->finish(2, absl::OkStatus());
  EXPECT_EQ(ends_, 0);
  request->finish(1, absl::NotFoundError("miss"));
  request->finish(1, absl::OkStatus());
  request->close(absl::CancelledError(""));
  EXPECT_EQ(ends_, 1);
  EXPECT_EQ(result_->prefix_blocks, 1u);
  EXPECT_TRUE(absl::IsNotFound(result_->keys[1].status));
}

TEST_F(RequestTest, CloseWaitsForTheClaimedKeyAlone) {
  const auto request = make(2);
  ASSERT_TRUE(request->claim(0));
  request->close(absl::DeadlineExceededError("late"));
  EXPECT_EQ(ends_, 0);
  EXPECT_FALSE(request->claim(1));
  request->finish(0, absl::OkStatus());
  EXPECT_EQ(ends_, 1);
  EXPECT_TRUE(result_->keys[0].status.ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(result_->keys[1].status));
}

TEST_F(RequestTest, UnclaimAfterCloseEndsTheKey) {
  const auto request = make(1);
  ASSERT_TRUE(request->claim(0));
  EXPECT_FALSE(request->claim(0));
  request->close(absl::CancelledError("gone"));
  EXPECT_FALSE(request->unclaim(0));
  EXPECT_EQ(ends_, 1);
  EXPECT_TRUE(absl::IsCancelled(result_->keys[0].status));
}

TEST_F(RequestTest, UnclaimedKeyGoesOn) {
  const auto request = make(1);
  ASSERT_TRUE(request->claim(0));
  EXPECT_TRUE(request->unclaim(0));
  EXPECT_EQ(ends_, 0);
  request->close(absl::CancelledError("gone"));
  EXPECT_EQ(ends_, 1);
}

}  // namespace
}  // namespace hadal
