# Programs other than ebb_tests: the examples on real input, and helpers of their tests.

# Benchmarks are no part of a test build, but the key streams and latencies are checked here.
add_executable(ebb_keys_check
  "${PROJECT_SOURCE_DIR}/benchmarks/keys_check.cc" "${PROJECT_SOURCE_DIR}/benchmarks/keys.cc"
  "${PROJECT_SOURCE_DIR}/benchmarks/latency.cc")
target_compile_features(ebb_keys_check PRIVATE cxx_std_20)
target_link_libraries(ebb_keys_check PRIVATE Threads::Threads)
ebb_own_target(ebb_keys_check)
add_test(NAME benchmark_keys COMMAND ebb_keys_check)
set_tests_properties(benchmark_keys PROPERTIES LABELS example TIMEOUT 300)

# The program in the README is compiled and run as it is printed there.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/README.md")
file(READ "${PROJECT_SOURCE_DIR}/README.md" readme)
string(FIND "${readme}" "```cpp\n" begin)
math(EXPR begin "${begin} + 7")
string(SUBSTRING "${readme}" ${begin} -1 readme)
string(FIND "${readme}" "\n```" end)
string(SUBSTRING "${readme}" 0 ${end} readme)
file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/readme.cc" CONTENT "${readme}\n" @ONLY)
add_executable(ebb_readme "${CMAKE_CURRENT_BINARY_DIR}/readme.cc")
target_link_libraries(ebb_readme PRIVATE ebb::ebb)
ebb_own_target(ebb_readme)
add_test(NAME readme_program COMMAND sh -c "rm -rf clicks.ebb && $<TARGET_FILE:ebb_readme>")
set_tests_properties(readme_program PROPERTIES LABELS example TIMEOUT 60)

if(NOT EBB_BUILD_EXAMPLES)
  return()
endif()
# Existing contents of the store must not confuse it. (examples/CMakeLists.txt has the test of each
# short example.)
add_test(NAME quickstart_twice COMMAND sh -c "rm -rf \"$2\" && \"$1\" \"$2\" && \"$1\" \"$2\""
  sh "$<TARGET_FILE:quickstart>" quickstart.ebb)
set_tests_properties(quickstart_twice PROPERTIES LABELS example TIMEOUT 60)

# Killed again and again, the bank keeps its money.
add_test(NAME checkpoint_and_recover COMMAND checkpoint_and_recover 5)
set_tests_properties(checkpoint_and_recover PROPERTIES LABELS example TIMEOUT 120)

# Word for word the same counts as by tr, sort and uniq. Without `made`, also of the text on this
# machine, which takes a minute.
add_test(NAME word_count_counts
  COMMAND sh "${CMAKE_CURRENT_SOURCE_DIR}/word_count_test.sh" "$<TARGET_FILE:word_count>" made)
set_tests_properties(word_count_counts PROPERTIES LABELS example TIMEOUT 600)

# More words than fit in memory: millions through the page cache, a tenth of them around it. The
# head of the script states what it checks and how its last argument, MiB, is computed.
add_executable(ebb_zipf_words zipf_words.cc)
target_compile_features(ebb_zipf_words PRIVATE cxx_std_20)
ebb_own_target(ebb_zipf_words)
function(ebb_larger_than_memory_test name)
  add_test(NAME ${name}
    COMMAND sh "${CMAKE_CURRENT_SOURCE_DIR}/larger_than_memory_test.sh"
      "$<TARGET_FILE:word_count>" "$<TARGET_FILE:ebb_zipf_words>" ${ARGN})
  set_tests_properties(${name} PROPERTIES LABELS example TIMEOUT 600)
endfunction()
#                                                        words  log buckets direct resident
ebb_larger_than_memory_test(word_count_larger_than_memory 2200000 16 524288 0 80)
ebb_larger_than_memory_test(word_count_direct_io 220000 2 65536 1 38)
