# The simulation: lives of whole stores in fibers. Uses the objects of schedule/schedule.cmake. It
# runs for a given time, so it is a leg of .ci/run instead of a ctest, and `all` does not build it.
if(NOT TARGET ebb_fibers)
  return()
endif()
file(GLOB ebb_simulation_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/*.cc")
add_executable(ebb_simulation EXCLUDE_FROM_ALL ${ebb_simulation_sources}
  "${CMAKE_CURRENT_SOURCE_DIR}/support/fault_file_system.cc" $<TARGET_OBJECTS:ebb_fibers>)
ebb_fiber_target(ebb_simulation)
