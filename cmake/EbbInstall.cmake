# Install rules: library, headers, a CMake package and a pkg-config file; all relocatable.
include(CMakePackageConfigHelpers)
set(ebb_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/ebb")

install(TARGETS ebb EXPORT ebbTargets
  RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}"
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}"
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/ebb"
  DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")

install(EXPORT ebbTargets NAMESPACE ebb:: DESTINATION "${ebb_package_dir}")
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/ebbConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/ebbConfig.cmake" INSTALL_DESTINATION "${ebb_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/ebbConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)  # before 1.0 a minor version may change the interface
install(FILES
  "${PROJECT_BINARY_DIR}/ebbConfig.cmake" "${PROJECT_BINARY_DIR}/ebbConfigVersion.cmake"
  DESTINATION "${ebb_package_dir}")

# The linker needs the private dependencies of a static library on every line; those of a shared
# one are none of the user's business.
set(ebb_pc_requires "absl_status, absl_statusor")
set(ebb_pc_requires_private "fmt")
if(EBB_WITH_LZ4)
  string(APPEND ebb_pc_requires_private ", liblz4")
endif()
if(EBB_USES_URING)
  string(APPEND ebb_pc_requires_private ", liburing")
endif()
get_target_property(ebb_library_type ebb TYPE)
if(ebb_library_type STREQUAL "STATIC_LIBRARY")
  string(APPEND ebb_pc_requires ", ${ebb_pc_requires_private}")
  set(ebb_pc_requires_private "")
endif()
# From the .pc file back to the prefix, so that a moved prefix still works.
file(RELATIVE_PATH ebb_pc_to_prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
configure_file("${PROJECT_SOURCE_DIR}/cmake/ebb.pc.in" "${PROJECT_BINARY_DIR}/ebb.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/ebb.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
