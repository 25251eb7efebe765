add_executable(bench_store bench_store.cc)
target_link_libraries(bench_store PRIVATE bench_report client)
target_compile_definitions(bench_store PRIVATE HADALD_BINARY="$<TARGET_FILE:hadald>"
                                               BENCH_DIRECTORY="${CMAKE_BINARY_DIR}")
add_dependencies(bench_store hadald)
