# Builds and runs one outside project; consumers.cmake passes the variables. Fails at the first
# command that fails, with its output.
set(work "${WORK_DIR}/${WAY}")
set(prefix "${WORK_DIR}/prefix")
file(REMOVE_RECURSE "${work}")
file(MAKE_DIRECTORY "${work}")

function(run)
  execute_process(COMMAND ${ARGV} WORKING_DIRECTORY "${work}"
    COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

# configure_and_build(<source folder> <target> [arguments of cmake...])
function(configure_and_build source target)
  run("${CMAKE_COMMAND}" -S "${source}" -B "${work}/build" -G "${GENERATOR}"
    "-DCMAKE_CXX_COMPILER=${CXX}" ${ARGN})
  run("${CMAKE_COMMAND}" --build "${work}/build" --target ${target} --parallel 2)
endfunction()

set(own "${SOURCE_DIR}/tests/consumers")
# The library as one source, as a parent project may have it; in a fifth of the time.
set(as_one_source -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=0)
if(WAY STREQUAL "fetch_content")
  configure_and_build("${own}/fetch_content" consumer ${as_one_source}
    "-DFETCHCONTENT_SOURCE_DIR_EBB=${SOURCE_DIR}" "-DCMAKE_PREFIX_PATH=${PREFIX_PATH}")
  run("${work}/build/consumer" "${work}/store")
elseif(WAY STREQUAL "add_subdirectory")
  configure_and_build("${own}/add_subdirectory" consumer ${as_one_source} -DEBB_WERROR=ON
    "-DEBB_SOURCE_DIR=${SOURCE_DIR}" "-DCMAKE_PREFIX_PATH=${PREFIX_PATH}")
  run("${work}/build/consumer" "${work}/store")
elseif(WAY STREQUAL "install")
  file(REMOVE_RECURSE "${prefix}")
  run("${CMAKE_COMMAND}" --install "${BUILD_DIR}" --prefix "${work}/first")
  file(RENAME "${work}/first" "${prefix}")
elseif(WAY STREQUAL "installed")
  configure_and_build("${own}/installed" consumer "-DCMAKE_PREFIX_PATH=${prefix};${PREFIX_PATH}")
  run("${work}/build/consumer" "${work}/store")
elseif(WAY STREQUAL "examples")
  configure_and_build("${SOURCE_DIR}/examples" quickstart
    "-DCMAKE_PREFIX_PATH=${prefix};${PREFIX_PATH}")
  run("${work}/build/quickstart" "${work}/store")
elseif(WAY STREQUAL "pkg_config")
  set(ENV{PKG_CONFIG_PATH} "${prefix}/${LIBDIR}/pkgconfig:$ENV{PKG_CONFIG_PATH}")
  execute_process(COMMAND "${PKG_CONFIG}" --cflags --libs ebb
    OUTPUT_VARIABLE flags COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(flags UNIX_COMMAND "${flags}")
  # The run path serves a shared ebb; a static one has no use for it.
  run("${CXX}" -std=c++20 "${own}/main.cc" -o consumer ${flags} "-Wl,-rpath,${prefix}/${LIBDIR}")
  run("${work}/consumer" "${work}/store")
else()
  message(FATAL_ERROR "unknown way into ebb: '${WAY}'")
endif()
