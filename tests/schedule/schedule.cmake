# The schedule explorer: a second test binary, in which the library is compiled with fibers in the
# place of threads.
#
# Not with sanitizers: they follow threads, not stacks that are switched by hand; and what runs
# here is one thread. Only for processors that scheduler.cc has a switch for, and for linkers that
# know --wrap.
if(EBB_SANITIZE OR NOT CMAKE_SYSTEM_NAME STREQUAL "Linux"
    OR NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64|aarch64|arm64)$")
  message(STATUS "ebb: no schedule explorer in this build")
  return()
endif()
file(GLOB ebb_schedule_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/*.cc")
add_executable(ebb_schedule_tests ${ebb_sources} ${ebb_schedule_sources}
  "${CMAKE_CURRENT_SOURCE_DIR}/support/sim_file_system.cc")
# In few pieces, because most of the compile time is spent on headers.
set(folder "${CMAKE_CURRENT_LIST_DIR}")
set_source_files_properties(${ebb_sources} "${CMAKE_CURRENT_SOURCE_DIR}/support/sim_file_system.cc"
  PROPERTIES UNITY_GROUP library)
set_source_files_properties("${folder}/epoch_schedules.cc" "${folder}/index_schedules.cc"
  "${folder}/page_schedules.cc" PROPERTIES UNITY_GROUP parts)
set_source_files_properties("${folder}/close_schedules.cc" "${folder}/compaction_schedules.cc"
  "${folder}/operation_schedules.cc" "${folder}/version_schedules.cc" PROPERTIES UNITY_GROUP stores)
set_target_properties(ebb_schedule_tests PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
target_compile_definitions(ebb_schedule_tests PRIVATE EBB_INLINE_FREELY
  "EBB_ATOMIC_HEADER=\"tests/schedule/atomic.h\"")
target_include_directories(ebb_schedule_tests PRIVATE
  "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/include" "${EBB_XXHASH_INCLUDE_DIR}")
target_link_libraries(ebb_schedule_tests PRIVATE
  absl::status absl::statusor fmt::fmt GTest::gtest GTest::gtest_main Threads::Threads)
foreach(call IN ITEMS pthread_mutex_lock pthread_mutex_trylock pthread_mutex_unlock sched_yield
    usleep syscall pthread_cond_clockwait _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE)
  target_link_options(ebb_schedule_tests PRIVATE "LINKER:--wrap=${call}")
endforeach()
ebb_own_target(ebb_schedule_tests)
ebb_add_suites(ebb_schedule_tests schedule)
