# Every header compiles alone, as the first line of a file, and under the warnings that a careful
# user may have turned on. Public headers do so without exceptions and RTTI. Of the internal ones an
# eighth is compiled, a different one each day, because all of them take as long as the library;
# -DEBB_CHECK_ALL_HEADERS=ON compiles all.
#
# ebb.h includes every public header, which is checked when CMake runs.
#
# The targets are built by tests, not by `all`: they prove something and produce nothing.
option(EBB_CHECK_ALL_HEADERS "Compile each internal header alone" OFF)
string(TIMESTAMP turn "%j")
string(REGEX REPLACE "^0+" "" turn "${turn}")
file(GLOB_RECURSE ebb_headers CONFIGURE_DEPENDS RELATIVE "${PROJECT_SOURCE_DIR}/include"
  "${PROJECT_SOURCE_DIR}/include/*.h")
file(STRINGS "${PROJECT_SOURCE_DIR}/include/ebb/ebb.h" ebb_all_includes REGEX "^#include")
set(ebb_header_files "")
set(ebb_public_header_files "")
foreach(header IN LISTS ebb_headers)
  string(MAKE_C_IDENTIFIER "${header}" name)
  set(file "${CMAKE_CURRENT_BINARY_DIR}/headers/${name}.cc")
  file(CONFIGURE OUTPUT "${file}" CONTENT "#include \"${header}\"  // IWYU pragma: keep\n")
  if(NOT header MATCHES "/internal/")
    list(APPEND ebb_public_header_files "${file}")
    if(NOT header STREQUAL "ebb/ebb.h" AND NOT "#include \"${header}\"" IN_LIST ebb_all_includes)
      message(FATAL_ERROR "ebb/ebb.h does not include ${header}")
    endif()
    continue()
  endif()
  math(EXPR turn "(${turn} + 1) % 8")
  if(EBB_CHECK_ALL_HEADERS OR turn EQUAL 0)
    list(APPEND ebb_header_files "${file}")
  endif()
endforeach()
# Templates show their warnings only where they are used.
list(APPEND ebb_public_header_files "${CMAKE_CURRENT_SOURCE_DIR}/every_call.cc")

function(ebb_header_check name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;OPTIONS")
  add_library(${name} OBJECT EXCLUDE_FROM_ALL ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ebb::ebb)
  set_target_properties(${name} PROPERTIES CXX_EXTENSIONS OFF EXPORT_COMPILE_COMMANDS OFF)
  target_compile_options(${name} PRIVATE
    -O0 -g0 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror ${arg_OPTIONS})
  if(CMAKE_GENERATOR MATCHES "Ninja")
    set(keep_going -k 0)  # show every header that is wrong
  else()
    set(keep_going -k)
  endif()
  add_test(NAME ${name}
    COMMAND "${CMAKE_COMMAND}" --build "${PROJECT_BINARY_DIR}" --target ${name}
      -- ${keep_going})
  # Two builds in one folder at a time would disturb each other.
  set_tests_properties(${name} PROPERTIES LABELS tree TIMEOUT 600 RESOURCE_LOCK build_folder)
endfunction()

ebb_header_check(headers_compile_alone SOURCES ${ebb_header_files})
ebb_header_check(headers_compile_without_exceptions_and_rtti
  SOURCES ${ebb_public_header_files} OPTIONS -fno-exceptions -fno-rtti)

# The examples in documents and in comments of public headers compile. They declare names that they
# do not use, and some are names of the preamble (tests/documents).
if(EBB_PERL)
  set(examples "${CMAKE_CURRENT_BINARY_DIR}/document_examples.cc")
  file(GLOB ebb_public_headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/ebb/*.h")
  add_custom_command(OUTPUT "${examples}"
    COMMAND ${ebb_documents} --examples "${PROJECT_SOURCE_DIR}" > "${examples}"
    DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/documents" ${ebb_public_headers}
      "${PROJECT_SOURCE_DIR}/README.md" "${PROJECT_SOURCE_DIR}/include/ebb/README.md"
    VERBATIM)
  ebb_header_check(document_examples_compile SOURCES "${examples}"
    OPTIONS -fsyntax-only -Wno-shadow -Wno-unused)
  target_link_libraries(document_examples_compile PRIVATE fmt::fmt)
endif()

# Before C++20, each public header ends the compilation with one message that states the remedy.
foreach(file IN LISTS ebb_public_header_files)
  if(file MATCHES "/headers/")
    get_filename_component(name "${file}" NAME_WE)
    add_test(NAME one_error_before_cxx20_${name}
      COMMAND sh -c "\"$@\" 2>&1 | tee /dev/stderr | grep -c ' error:' | grep -qx 2" count
        "${CMAKE_CXX_COMPILER}" -std=c++17 -fsyntax-only
        -I "${PROJECT_SOURCE_DIR}/include" "${file}")
    set_tests_properties(one_error_before_cxx20_${name} PROPERTIES LABELS tree TIMEOUT 60)
  endif()
endforeach()
