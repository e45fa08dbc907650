# What every target of ebb's own is compiled with, and nobody else's.
function(ebb_own_target target)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
    $<$<BOOL:${EBB_WERROR}>:-Werror>
    $<$<BOOL:${EBB_THREAD_SAFETY}>:-Wthread-safety>
    $<$<BOOL:${EBB_THREAD_SAFETY}>:-Werror=thread-safety>)
endfunction()
