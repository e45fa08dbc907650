#!/bin/sh
# Measures the cost of ebb to a compiler, at -O2: processor seconds, because other work of the
# machine is not the compiler's fault, and bytes of code (the text column of `size`).
#
#   compile_time.sh [COMPILER [FLAGS...]]
#
# Prints medians of five rounds in turn (or of as many as the variable EBB_ROUNDS says):
#
#   store 4.71                a file that includes ebb/store.h and opens two stores
#   headers 2.50              a file that includes the same standard and Abseil headers only
#   further_store 0.81        the difference that one more store makes, of other types; four are
#   further_store_bytes       added, and the difference is divided
#   number_lambda 0.012       likewise: one more call of Rmw on 8-byte values, with a function of
#   number_lambda_bytes       its own, in a function of its own; twenty are added
#   string_lambda, string_lambda_bytes    the same on strings
#
# The list of the headers is taken from the sources: all that ebb's headers include and that are not
# ebb's own.
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

# added FILE COUNT TEXT: a copy of the file of the two stores, followed by COUNT copies of TEXT with
# their number in the place of each @.
added() {
  cp "$folder/store.cc" "$folder/$1.cc"
  for i in $(seq "$2"); do echo "$3" | sed "s/@/$i/g" >>"$folder/$1.cc"; done
}
added further_store 4 '
struct Value@ { std::uint64_t words[@ + 1]; };
int UseStore@() {
  auto store = ebb::Must(ebb::Store<std::uint64_t, Value@>::OpenInMemory());
  auto session = store.NewSession();
  ebb::Must(session.Upsert(1, Value@{}));
  ebb::Must(session.Rmw(1, [](Value@& value) { ++value.words[@]; }));
  const bool equal = ebb::Must(session.Read(1)).words[0] == 0;
  ebb::Must(store.Close());
  return equal ? 1 : 0;
}'
added number_lambda 20 '
absl::Status Add@(ebb::Store<std::uint64_t, std::uint64_t>::Session& session, unsigned key) {
  return session.Rmw(key, [](std::uint64_t& value) { value += @; });
}'
added string_lambda 20 '
absl::Status Add@(ebb::Store<std::string, std::string>::Session& session, std::string_view key) {
  return session.Rmw(key, [](std::string& value) { value += "@"; });
}'

compile() { "$compiler" -std=c++20 -O2 -I "$include" "$@"; }

# The headers of ebb that the file reaches, then the other headers that they include.
compile "$@" -MM "$folder/store.cc" | tr ' \\' '\n\n' | grep "/ebb/" |
  xargs sed -n -e 's/^#include <[^ ]*>.*/&/p' -e 's/^#include "absl.*/&/p' | sort -u \
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

files='headers store further_store number_lambda string_lambda'
for _ in $(seq "${EBB_ROUNDS:-5}"); do
  for file in $files; do seconds "$file" "$@"; done
done

median() { sort -n "$folder/$1.times" | awk '{ t[NR] = $1 } END { print t[int((NR + 1) / 2)] }'; }
text() { size "$folder/$1.o" | awk 'NR == 2 { print $1 }'; }
each() { # each FILE COUNT: what one of its COUNT additions to the file of the two stores costs
  awk -v name="$1" -v count="$2" -v seconds="$(median "$1")" -v before="$(median store)" \
    -v bytes="$(text "$1")" -v bytes_before="$(text store)" 'BEGIN {
      printf "%s %.4f\n", name, (seconds - before) / count
      printf "%s_bytes %.0f\n", name, (bytes - bytes_before) / count
    }'
}
printf 'store %.2f\nheaders %.2f\n' "$(median store)" "$(median headers)"
each further_store 4
each number_lambda 20
each string_lambda 20
