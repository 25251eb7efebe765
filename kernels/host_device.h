#pragma once

// Marks a function that is compiled for the host and, by nvcc, for the GPU too. There it is always
// inlined, and its loops unrolled: only then do arrays that a thread owns stay in its registers.
#if defined(__CUDACC__)
#define HADAL_HOST_DEVICE __host__ __device__ __forceinline__
#define HADAL_UNROLL _Pragma("unroll")
#define HADAL_PRAGMA(text) _Pragma(#text)
#define HADAL_UNROLL_BY(count) HADAL_PRAGMA(unroll count)
#else
#define HADAL_HOST_DEVICE inline
#define HADAL_UNROLL
#define HADAL_UNROLL_BY(count)
#endif
