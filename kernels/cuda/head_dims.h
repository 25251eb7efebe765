#pragma once

#include <type_traits>

namespace hadal::cuda {

// Calls work(std::integral_constant<int, head_dim>()) for a head_dim that kernels are made for;
// false for others. The one place that lists them.
template <typename Work>
bool with_head_dim(int head_dim, Work work) {
  switch (head_dim) {
    case 64:
      return work(std::integral_constant<int, 64>()), true;
    case 80:
      return work(std::integral_constant<int, 80>()), true;
    case 96:
      return work(std::integral_constant<int, 96>()), true;
    case 112:
      return work(std::integral_constant<int, 112>()), true;
    case 128:
      return work(std::integral_constant<int, 128>()), true;
    case 160:
      return work(std::integral_constant<int, 160>()), true;
    case 192:
      return work(std::integral_constant<int, 192>()), true;
    case 256:
      return work(std::integral_constant<int, 256>()), true;
    case 320:
      return work(std::integral_constant<int, 320>()), true;
    case 512:
      return work(std::integral_constant<int, 512>()), true;
    case 576:
      return work(std::integral_constant<int, 576>()), true;
    default:
      return false;
  }
}

}  // namespace hadal::cuda
