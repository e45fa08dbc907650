# Programs other than ebb_tests: the examples on real input, and what their tests need.

# Benchmarks are no part of a test build, but the key streams under them are checked here.
add_executable(ebb_keys_check
  "${PROJECT_SOURCE_DIR}/benchmarks/keys_check.cc" "${PROJECT_SOURCE_DIR}/benchmarks/keys.cc")
target_compile_features(ebb_keys_check PRIVATE cxx_std_20)
target_link_libraries(ebb_keys_check PRIVATE Threads::Threads)
ebb_own_target(ebb_keys_check)
add_test(NAME benchmark_keys COMMAND ebb_keys_check)
set_tests_properties(benchmark_keys PROPERTIES LABELS example TIMEOUT 300)

if(NOT EBB_BUILD_EXAMPLES)
  return()
endif()
add_test(NAME quickstart COMMAND quickstart)
set_tests_properties(quickstart PROPERTIES LABELS example TIMEOUT 60)

# Word for word the same counts as by tr, sort and uniq.
add_test(NAME word_count_counts
  COMMAND sh "${CMAKE_CURRENT_SOURCE_DIR}/word_count_test.sh" "$<TARGET_FILE:word_count>")
set_tests_properties(word_count_counts PROPERTIES LABELS example TIMEOUT 600)
