// Forked children, for tests of locks, of forks, and of surroundings that a process cannot leave.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

namespace ebb::test {

// Waits for a child. Returns its result, or -1 if a signal ended it.
inline int ResultOf(pid_t child) {
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "the child was ended by signal " << WTERMSIG(status);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// Forks a child that runs `body` and ends with its result. A child that hangs is killed.
template <typename Body>
pid_t StartChild(Body body) {
  std::fflush(nullptr);  // otherwise the child may print our buffer again
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    ::_exit(body());
  }
  EXPECT_GT(child, 0);
  return child;
}

template <typename Body>
int InChild(Body body) {
  return ResultOf(StartChild(body));
}

}  // namespace ebb::test
