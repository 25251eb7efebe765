#include "kernels/cuda/mse_family.h"
#include "kernels/cuda/start_kernel.h"

namespace hadal::cuda {

FamilyKernels mse_kernels() { return kernels_of<MseFamily>(); }

}  // namespace hadal::cuda
