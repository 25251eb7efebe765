find_package(hwy REQUIRED)
add_executable(bench_codec bench_codec.cc)
target_link_libraries(bench_codec PRIVATE bench_report kernels hwy::hwy)
