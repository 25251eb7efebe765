#include "kernels/cuda/start_kernel.h"
#include "kernels/cuda/tqe_family.h"

namespace hadal::cuda {

FamilyKernels tqe_kernels() { return kernels_of<TqeFamily>(); }

}  // namespace hadal::cuda
