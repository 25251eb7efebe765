#include "kernels/cuda/prod_family.h"
#include "kernels/cuda/start_kernel.h"

namespace hadal::cuda {

FamilyKernels prod_kernels() { return kernels_of<ProdFamily>(); }
FamilyKernels prod_gaussian_kernels() { return kernels_of<GaussianProdFamily>(); }

}  // namespace hadal::cuda
