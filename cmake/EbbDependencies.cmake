# The dependencies of ebb. Each is searched for in this order: the parent project's target, an
# installed package, a pinned download. -DFETCHCONTENT_TRY_FIND_PACKAGE_MODE=NEVER forces the
# downloads and -DFETCHCONTENT_FULLY_DISCONNECTED=ON forbids them.
include(FetchContent)
find_package(Threads REQUIRED)

# ebb_dependency(<name> <target> <repository> <tag> [find_package arguments...])
#
# <target> proves that the dependency is there already: a parent may have brought it under another
# FetchContent name, and a second find_package of Abseil would fail on half-defined targets.
# GLOBAL makes the found targets visible to the parent, which links them through ebb::ebb.
macro(ebb_dependency name target repository tag)
  if(NOT TARGET ${target})
    FetchContent_Declare(${name}
      GIT_REPOSITORY ${repository}
      GIT_TAG ${tag}
      GIT_SHALLOW ON
      SYSTEM
      FIND_PACKAGE_ARGS GLOBAL ${ARGN})
    FetchContent_MakeAvailable(${name})
    if(NOT TARGET ${target})
      message(FATAL_ERROR "ebb: ${name} was found, but it has no target ${target}")
    endif()
  endif()
endmacro()

# Read only where a dependency is built from source. What ebb exports links to them, so they must
# be installed with it.
set(ABSL_PROPAGATE_CXX_STD ON)
set(ABSL_ENABLE_INSTALL ${EBB_INSTALL})
set(FMT_INSTALL ${EBB_INSTALL})
# No version of Abseil is requested, because its version file accepts only the exact number.
ebb_dependency(absl absl::status https://github.com/abseil/abseil-cpp.git 20240722.0)
ebb_dependency(fmt fmt::fmt https://github.com/fmtlib/fmt.git 10.2.1)

# xxHash is used as a header, and has no CMake package.
find_path(EBB_XXHASH_INCLUDE_DIR xxhash.h DOC "Folder of xxhash.h, 0.8 or later")
mark_as_advanced(EBB_XXHASH_INCLUDE_DIR)
if(NOT EBB_XXHASH_INCLUDE_DIR)
  # The subfolder does not exist: the sources are fetched, and nothing of them is built.
  FetchContent_Declare(ebb_xxhash
    GIT_REPOSITORY https://github.com/Cyan4973/xxHash.git
    GIT_TAG v0.8.2
    GIT_SHALLOW ON
    SOURCE_SUBDIR header-only)
  FetchContent_MakeAvailable(ebb_xxhash)
  set(EBB_XXHASH_INCLUDE_DIR "${ebb_xxhash_SOURCE_DIR}")
endif()

# Off by default: a library that happens to be installed does not become a dependency.
if(EBB_WITH_LZ4)
  find_path(EBB_LZ4_INCLUDE_DIR lz4.h DOC "Folder of lz4.h, 1.9 or later")
  find_library(EBB_LZ4_LIBRARY lz4 DOC "The library of LZ4")
  mark_as_advanced(EBB_LZ4_INCLUDE_DIR EBB_LZ4_LIBRARY)
  if(NOT EBB_LZ4_INCLUDE_DIR OR NOT EBB_LZ4_LIBRARY)
    message(FATAL_ERROR "ebb: EBB_WITH_LZ4 is on, but LZ4 was not found")
  endif()
endif()

# On, since nothing but speed depends on it: at run time the kernel has the last word.
if(EBB_WITH_URING)
  find_path(EBB_URING_INCLUDE_DIR liburing.h DOC "Folder of liburing.h, 2.0 or later")
  find_library(EBB_URING_LIBRARY uring DOC "The library of liburing")
  mark_as_advanced(EBB_URING_INCLUDE_DIR EBB_URING_LIBRARY)
endif()

if(EBB_BUILD_TESTS)
  set(INSTALL_GTEST OFF)
  ebb_dependency(googletest GTest::gmock https://github.com/google/googletest.git v1.14.0
    NAMES GTest)
endif()

if(EBB_BUILD_BENCHMARKS)
  set(BENCHMARK_ENABLE_TESTING OFF)
  set(BENCHMARK_ENABLE_INSTALL OFF)
  ebb_dependency(benchmark benchmark::benchmark https://github.com/google/benchmark.git v1.8.4)
endif()
