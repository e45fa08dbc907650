# Outside projects: each way into ebb that the README shows is walked by a test.
#
# The installed package is moved to another prefix after the installation, so whatever finds it
# there does not depend on where it was put first.
function(ebb_consumer_test way)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "SETUP;NEEDS" "")
  add_test(NAME consumer_${way}
    COMMAND "${CMAKE_COMMAND}"
      "-DWAY=${way}"
      "-DSOURCE_DIR=${PROJECT_SOURCE_DIR}"
      "-DBUILD_DIR=${PROJECT_BINARY_DIR}"
      "-DWORK_DIR=${CMAKE_CURRENT_BINARY_DIR}/consumers"
      "-DCXX=${CMAKE_CXX_COMPILER}"
      "-DGENERATOR=${CMAKE_GENERATOR}"
      "-DPREFIX_PATH=${CMAKE_PREFIX_PATH}"
      "-DLIBDIR=${CMAKE_INSTALL_LIBDIR}"
      "-DPKG_CONFIG=${PKG_CONFIG_EXECUTABLE}"
      -P "${PROJECT_SOURCE_DIR}/tests/consumers/run.cmake")
  set_tests_properties(consumer_${way} PROPERTIES
    LABELS consumer TIMEOUT 600 COST 200
    FIXTURES_SETUP "${arg_SETUP}" FIXTURES_REQUIRED "${arg_NEEDS}")
endfunction()

ebb_consumer_test(fetch_content)
ebb_consumer_test(add_subdirectory)
if(EBB_INSTALL)
  ebb_consumer_test(install SETUP installed_ebb)
  ebb_consumer_test(installed NEEDS installed_ebb)
  ebb_consumer_test(examples NEEDS installed_ebb)
  find_package(PkgConfig QUIET)
  if(PKG_CONFIG_EXECUTABLE)
    ebb_consumer_test(pkg_config NEEDS installed_ebb)
  else()
    message(STATUS "ebb: no pkg-config, so there is no test consumer_pkg_config")
  endif()
endif()
