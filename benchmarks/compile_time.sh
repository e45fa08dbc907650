#!/bin/sh
# Processor seconds to compile, at -O2, a file that includes ebb/store.h and opens two stores, and
# a file that includes the same standard and Abseil headers and does nothing.
#
#   compile_time.sh [COMPILER [FLAGS...]]
#
# Prints the medians of five rounds in turn: "store 4.71" and "headers 2.50". Processor time,
# because other work of the machine is not the compiler's fault. The list of these headers is taken
# from the sources: all headers that ebb's headers include and that are not ebb's own.
set -eu
compiler=${1:-c++}
[ $# -eq 0 ] || shift
include=$(cd "$(dirname "$0")/../include" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM

cat >"$folder/store.cc" <<'END'
#include "ebb/store.h"

int UseTwoStores() {
  auto numbers = ebb::Must(ebb::Store<std::uint64_t, std::uint64_t>::OpenInMemory());
  auto texts = ebb::Must(ebb::Store<std::string, std::string>::OpenInMemory());
  auto number_session = numbers.NewSession();
  auto text_session = texts.NewSession();
  ebb::Must(number_session.Upsert(1, 2));
  ebb::Must(number_session.Rmw(1, [](std::uint64_t& value) { ++value; }));
  ebb::Must(text_session.Upsert("a", "b"));
  ebb::Must(text_session.Rmw("a", [](std::string& value) { value += "c"; }));
  const bool equal = ebb::Must(texts.Read("a")).size() == ebb::Must(numbers.Read(1));
  ebb::Must(numbers.Close());
  ebb::Must(texts.Close());
  return equal ? 1 : 0;
}
END

compile() { "$compiler" -std=c++20 -O2 -I "$include" "$@"; }

# The headers of ebb that the file reaches, then the other headers that they include.
compile "$@" -MM "$folder/store.cc" | tr ' \\' '\n\n' | grep "/ebb/" |
  xargs sed -n -e 's/^#include <.*>.*/&/p' -e 's/^#include "absl.*/&/p' | sort -u \
  >"$folder/headers.cc"
echo 'int UseNothing() { return 0; }' >>"$folder/headers.cc"

seconds() { # seconds FILE FLAGS...
  file=$1
  shift
  times >"$folder/before" # the shell's own; the second line is about the commands it ran
  compile "$@" -c "$folder/$file.cc" -o "$folder/$file.o"
  times >"$folder/after"
  awk 'FNR == 2 { gsub(/[ms]/, " "); spent = ($1 + $3) * 60 + $2 + $4 - spent }
       END { print spent }' "$folder/before" "$folder/after" >>"$folder/$file.times"
}

for _ in 1 2 3 4 5; do
  seconds headers "$@"
  seconds store "$@"
done
for file in store headers; do
  sort -n "$folder/$file.times" | awk -v file="$file" \
    '{ t[NR] = $1 } END { printf "%s %.2f\n", file, t[int((NR + 1) / 2)] }'
done
