#!/bin/sh
# Compares the counts of word_count with those of tr, sort and uniq on the same input, word for
# word: on files made to be awkward, and on the text that word_count reads without arguments.
#
#   word_count_test.sh WORD_COUNT [made]     made: only the files made here
#
# The awkward ones: empty files, no newline at the end, CRLF, digits, bytes above 127, zero bytes,
# words across the 64 KiB chunks and the 1 MiB pieces in which word_count reads, words of exactly
# the greatest length, longer ones (which are not counted, but reported), names with spaces,
# symbolic links (not followed) and a file that cannot be read (passed over with a note).
set -eu
LC_ALL=C
export LC_ALL
word_count=$1
directory=$(mktemp -d ./word_count_test.XXXXXX)
trap 'chmod -R u+rwx "$directory"; rm -rf "$directory"' EXIT

Fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# The value that word_count printed after a name.
Value() {
  sed -n "s/^$1: //p" "$directory/printed"
}

# "count word" of every readable file given or in a folder given, words of up to 32768 bytes. This
# grep is a cat that ends each file by a newline: words do not go on from one file to the next.
Expect() {
  find "$@" -type f -readable -print0 | xargs -0 -r grep -ah '' |
    tr 'A-Z' 'a-z' | tr -cs 'a-z0-9' '\n' |
    awk 'length > 0 && length <= 32768' |
    sort | uniq -c | sed 's/^ *//' | sort >"$directory/expected"
}

# Runs word_count with the options and inputs given and compares everything it says.
Compare() {
  "$word_count" --dump="$directory/dump" "$@" >"$directory/printed" ||
    Fail "word_count $* ended with $?"
  CompareRun "word_count $*"
}

# Compares the results of a run, named $1, with the expected ones.
CompareRun() {
  sort "$directory/dump" >"$directory/sorted"
  diff "$directory/expected" "$directory/sorted" >"$directory/difference" ||
    Fail "$1: counts differ (<: tr, sort and uniq, >: word_count):" \
      "$(head -n 20 "$directory/difference")"
  words=$(awk '{ sum += $1 } END { printf "%d", sum }' "$directory/expected")
  distinct=$(awk 'END { print NR }' "$directory/expected")
  [ "$(Value words)" = "$words" ] || Fail "words: $(Value words), expected $words"
  [ "$(Value 'distinct words')" = "$distinct" ] ||
    Fail "distinct words: $(Value 'distinct words'), expected $distinct"
  sort -k1,1nr -k2 "$directory/expected" | head -n 10 >"$directory/top_expected"
  sed -n '/^most frequent words:$/,/^verified/p' "$directory/printed" |
    sed -e '/^most/d' -e '/^verified/d' -e 's/^ *//' >"$directory/top"
  diff "$directory/top_expected" "$directory/top" || Fail "most frequent words differ"
  grep -q '^verified: ' "$directory/printed" || Fail "$1: did not verify"
  echo "compared: $1: $words words, $distinct distinct"
}

# A word of $1 bytes, all $2.
Word() {
  head -c "$1" /dev/zero | tr '\0' "$2"
}

made=$directory/made
mkdir -p "$made/folder/below" "$made/folder with spaces"
: >"$made/empty"
printf 'no newline at the end' >"$made/folder/unended"
printf 'begins, at the end of its name only' >"$made/folder/unended.next"
printf 'One two\r\nTHREE\rfour\r\n\r\n' >"$made/folder/below/crlf"
printf '0 00 007 7 x86 X86 x_86 a1b2-C3 1e9 3.14\n' >"$made/digits"
printf 'na\303\257ve caf\351 \377\376z \200a\200 it'\''s\n' >"$made/high bytes"
printf 'zero\000byte\000\000s zero\n' >"$made/folder with spaces/zero bytes"
printf 'one' >"$made/one"
printf '%s' '---' >"$made/no words"
# Words that end at, lie across or begin at the borders of the first chunks and pieces.
for size in 65530 65533 65535 65536 65537 131069 1048570 1048573 1048575 1048576 1048577 2097149; do
  { Word $size ' '; printf 'across it all'; } >"$made/at $size"
done
{ Word 1048576 'x'; printf ' behind'; } >"$made/piece is a word"
{ printf 'a '; Word 3300000 'y'; printf ' b'; } >"$made/pieces long"
{ Word 32768 'A'; printf ' '; Word 32768 'b'; printf '\n'; Word 32769 'c'; } >"$made/greatest"
awk 'BEGIN { for (i = 0; i < 70000; ++i) printf "%s%d", i % 7 ? " " : "\n", i * 7919 % 30011 }' \
  >"$made/numbers"
ln -s one "$made/link to a file"
ln -s . "$made/folder/loop"
printf 'secret' >"$made/unreadable"
chmod 000 "$made/unreadable"

Expect "$made"
for threads in 1 4; do
  Compare --threads=$threads --log_memory_mib=1 --index_buckets=1024 --direct_io=$((threads / 4)) \
    "$made"
  # A piece of x, three pieces of y, and c.
  [ "$(Value 'words over 32768 bytes, not counted')" = 3 ] || Fail "too long words: not 3"
done
if [ ! -r "$made/unreadable" ]; then  # root can read it
  [ "$(Value 'unreadable pieces')" = 1 ] || Fail "the unreadable file was not reported"
fi
Expect "$made/one"
if [ -f /proc/self/mem ]; then  # can be opened by its owner, but not read from its beginning
  Compare "$made/one" /proc/self/mem
  [ "$(Value 'unreadable pieces')" = 1 ] || Fail "the file that fails was not reported"
fi
# A symbolic link as an argument is followed.
Compare "$made/link to a file"
Expect "$made/empty" "$made/no words"
Compare "$made/empty" "$made/no words"
Expect "$made/folder" "$made/digits" "$made/high bytes"
Compare "$made/folder" "$made/digits" "$made/high bytes"

# Rejected arguments end the program with status 2, and leave no files.
for argument in --nonsense --threads=0 --threads=x --dump= --log_memory_mib=0 \
  --index_buckets=1000 "--store=$made" "$made/absent"; do
  status=0
  TMPDIR=$directory "$word_count" "$argument" "$made/one" >/dev/null 2>&1 || status=$?
  [ $status -eq 2 ] || Fail "word_count $argument: status $status, expected 2"
done
[ -z "$(find "$directory" -maxdepth 1 -name 'word_count.*')" ] || Fail "a temporary store stayed"

# The store of --store stays.
"$word_count" "--store=$directory/store" "$made/one" >/dev/null
[ -n "$(find "$directory/store" -type f)" ] || Fail "--store left no file"

if [ "${2:-all}" = all ]; then
  # The inputs by its own account, so that both read the same. No name has a line break.
  "$word_count" --dump="$directory/dump" >"$directory/printed" ||
    Fail "word_count without arguments ended with $?"
  set --
  while IFS= read -r input; do
    set -- "$@" "$input"
  done <<EOF
$(sed -n 's/^input: //p' "$directory/printed")
EOF
  Expect "$@"
  CompareRun "word_count without arguments"
fi
echo "PASSED"
