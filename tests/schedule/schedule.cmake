# Programs of fibers: the schedule explorer and the simulation, for which the library is compiled
# with fibers in the place of threads.
#
# Not with sanitizers: they follow threads, not stacks that are switched by hand; and what runs
# here is one thread. Only for processors that scheduler.cc has a switch for.
if(EBB_SANITIZE OR NOT CMAKE_SYSTEM_NAME STREQUAL "Linux"
    OR NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64|aarch64|arm64)$")
  message(STATUS "ebb: no schedule explorer and no simulation in this build")
  return()
endif()
set(ebb_fiber_libraries absl::status absl::statusor fmt::fmt Threads::Threads)
function(ebb_fiber_target target)
  target_compile_definitions(${target} PRIVATE EBB_INLINE_FREELY
    "EBB_ATOMIC_HEADER=\"tests/schedule/atomic.h\""
    "EBB_PLATFORM_HEADER=\"tests/schedule/platform.h\"")
  target_include_directories(${target} PRIVATE
    "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/include" "${EBB_XXHASH_INCLUDE_DIR}")
  target_link_libraries(${target} PRIVATE ${ebb_fiber_libraries})
  ebb_own_target(${target})
endfunction()
# In few pieces, because most of the compile time is spent on headers.
set(folder "${CMAKE_CURRENT_LIST_DIR}")
add_library(ebb_fibers OBJECT ${ebb_sources} "${folder}/scheduler.cc"
  "${CMAKE_CURRENT_SOURCE_DIR}/support/sim_file_system.cc")
set_source_files_properties(${ebb_sources} "${CMAKE_CURRENT_SOURCE_DIR}/support/sim_file_system.cc"
  PROPERTIES UNITY_GROUP library)
set_target_properties(ebb_fibers PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
ebb_fiber_target(ebb_fibers)

file(GLOB ebb_schedule_sources CONFIGURE_DEPENDS "${folder}/*.cc")
list(REMOVE_ITEM ebb_schedule_sources "${folder}/scheduler.cc")
add_executable(ebb_schedule_tests ${ebb_schedule_sources} $<TARGET_OBJECTS:ebb_fibers>)
set_source_files_properties("${folder}/epoch_schedules.cc" "${folder}/index_schedules.cc"
  "${folder}/page_schedules.cc" PROPERTIES UNITY_GROUP parts)
set_source_files_properties("${folder}/close_schedules.cc" "${folder}/compaction_schedules.cc"
  "${folder}/operation_schedules.cc" "${folder}/version_schedules.cc" PROPERTIES UNITY_GROUP stores)
set_target_properties(ebb_schedule_tests PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
ebb_fiber_target(ebb_schedule_tests)
target_link_libraries(ebb_schedule_tests PRIVATE GTest::gtest GTest::gtest_main)
ebb_add_suites(ebb_schedule_tests schedule)
