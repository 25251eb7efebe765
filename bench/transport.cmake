# Blocks between two processes against ucx_perftest, which must be on PATH (package ucx-utils).
add_executable(bench_transport bench_transport.cc)
target_link_libraries(bench_transport PRIVATE transport bench_report)
