# Run by ctest as it starts: one test for each suite of the binary `ebb_tests_binary`.
#
# gtest_discover_tests would start a process for each single test. Typed and parameterized suites
# (Suite/0, Instance/Suite, Instance/Suite/0) belong to the test of their stem.
if(NOT EXISTS "${ebb_tests_binary}")
  get_filename_component(name "${ebb_tests_binary}" NAME)
  add_test("${name}_NOT_BUILT" "${ebb_tests_binary}")
  return()
endif()
execute_process(COMMAND "${ebb_tests_binary}" --gtest_list_tests
  OUTPUT_VARIABLE listing ERROR_VARIABLE errors RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${ebb_tests_binary} --gtest_list_tests: ${result}\n${errors}")
endif()

# A suite's line starts in the first column: "Name." or "Name/0.  # TypeParam = unsigned long".
# Semicolons and brackets of a type's name would confuse CMake's lists.
string(REGEX REPLACE "[][;]" "_" listing "${listing}")
string(REGEX MATCHALL "(^|\n)[A-Za-z0-9_/]+\\.( +# TypeParam)?" lines "${listing}")
set(suites "")
foreach(line IN LISTS lines)
  string(REGEX MATCH "[A-Za-z0-9_/]+" name "${line}")
  string(REPLACE "/" ";" parts "${name}")
  list(LENGTH parts part_count)
  if(part_count EQUAL 1 OR (part_count EQUAL 2 AND line MATCHES "TypeParam"))
    list(GET parts 0 suite)  # Suite, or Suite/<type>
  else()
    list(GET parts 1 suite)  # <instance>/Suite, or <instance>/Suite/<type>
  endif()
  list(APPEND suites "${suite}")
endforeach()
list(REMOVE_DUPLICATES suites)

foreach(suite IN LISTS suites)
  add_test("${suite}" "${ebb_tests_binary}"
    "--gtest_filter=${suite}.*:${suite}/*:*/${suite}.*:*/${suite}/*")
  if(suite STREQUAL "StressTest")
    set_tests_properties("${suite}" PROPERTIES LABELS stress TIMEOUT 1200)
  else()
    set_tests_properties("${suite}" PROPERTIES LABELS "${ebb_suites_label}" TIMEOUT 1200)
  endif()
  # First, so that all processors end at about the same time.
  if(suite MATCHES "Schedules$|^(Crash|Damage|DamageWithCheckpoints|BackgroundJobs|Kill)Test$")
    set_tests_properties("${suite}" PROPERTIES COST 100)
  endif()
  # Alone, because they need their threads to run at the same time, or assert how much gets done.
  if(suite MATCHES "Stress|Litmus")
    set_tests_properties("${suite}" PROPERTIES RUN_SERIAL ON)
  endif()
  # These open thousands of stores, whose buffers malloc would map and unmap each time. Where other
  # processors must be interrupted for that, as in some virtual machines, it takes most of the time.
  if(suite MATCHES "Schedules|Damage|CrashTest|FaultTest|DiskFull|RejectedCalls")
    set(keep "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296")
    set_tests_properties("${suite}" PROPERTIES ENVIRONMENT "GLIBC_TUNABLES=${keep}")
  endif()
endforeach()
