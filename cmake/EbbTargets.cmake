# The compile options of ebb's own targets. Users do not inherit them.
function(ebb_own_target target)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
    $<$<BOOL:${EBB_WERROR}>:-Werror>
    $<$<BOOL:${EBB_THREAD_SAFETY}>:-Wthread-safety>
    $<$<BOOL:${EBB_THREAD_SAFETY}>:-Werror=thread-safety>)
endfunction()
