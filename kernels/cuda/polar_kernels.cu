#include "kernels/cuda/polar_family.h"
#include "kernels/cuda/start_kernel.h"

namespace hadal::cuda {

FamilyKernels polar_kernels() { return kernels_of<PolarFamily>(); }

}  // namespace hadal::cuda
