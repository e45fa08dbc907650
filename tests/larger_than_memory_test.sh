#!/bin/sh
# Counts so many distinct words that nearly all of them leave memory, and checks that every count
# is right, that the device was read, and that resident memory stayed within its limit.
#
#   larger_than_memory_test.sh WORD_COUNT ZIPF_WORDS WORDS LOG_MEMORY_MIB INDEX_BUCKETS
#                              DIRECT_IO RESIDENT_MIB
#
# WORDS distinct words, once each, and half as many drawn from them by a zipfian distribution. The
# test fails if their records take less than 8 times LOG_MEMORY_MIB, or if less than that was
# flushed: then the words were too few to show anything.
#
# Exact counts: word_count adds one to each word's count, closes, reopens, meets every word again
# and writes each count to its dump; ZIPF_WORDS then compares every line with the text it made.
# word_count itself compares the counts with its second reading of the text.
#
# RESIDENT_MIB is the limit for the whole process at its worst (VmHWM), to be computed as the log
# memory, 64 bytes for each bucket of the index, and 32 MiB for the program and its libraries,
# stacks, chunks of text, sessions, write and read buffers, and overflow buckets. 0: not checked,
# for sanitizers, whose own memory is counted too.
#
# How long it takes is decided by the device: every cold word costs one read of 4 KiB, and a
# thread waits for each of its reads. With DIRECT_IO=1 that is real latency, 20 to 100
# microseconds; so the run with millions of words goes through the page cache (which is not
# resident memory of the process), and a run with a tenth of them goes around it.
set -eu
word_count=$1
zipf_words=$2
words=$3
log_memory_mib=$4
index_buckets=$5
direct_io=$6
resident_mib=$7
repeats=$((words / 2))
directory=$(mktemp -d ./larger_than_memory_test.XXXXXX)
trap 'rm -rf "$directory"' EXIT

Fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# The value printed after a name in a file.
Value() {
  value=$(sed -n "s/^$1: //p" "$directory/$2")
  [ -n "$value" ] || Fail "no value named '$1'"
  echo "$value"
}

# Compares two numbers by an operator of test(1), and fails naming the fourth argument.
Must() {
  test "$1" "$2" "$3" || Fail "$4: $1, expected $2 $3"
}

"$zipf_words" write "$directory/text" "$words" "$repeats" >"$directory/sizes"
live_bytes=$(Value 'live bytes' sizes)
log_bytes=$((log_memory_mib * 1024 * 1024))
Must "$live_bytes" -ge $((8 * log_bytes)) "too few words; bytes of their records"

# Many threads, to have many device reads at a time.
"$word_count" --log_memory_mib="$log_memory_mib" --index_buckets="$index_buckets" --threads=16 \
  --direct_io="$direct_io" --store="$directory/store" --dump="$directory/dump" \
  "$directory/text" >"$directory/printed" 2>"$directory/progress" || {
  cat "$directory/printed" "$directory/progress" >&2
  Fail "word_count ended with an error"
}
cat "$directory/printed"

"$zipf_words" check "$directory/dump" "$words" "$repeats" || Fail "counts are wrong"
Must "$(Value words printed)" -eq "$(Value words sizes)" "words"
Must "$(Value 'distinct words' printed)" -eq "$words" "distinct words"
Must "$(Value 'counting, flushed bytes' printed)" -ge $((live_bytes - log_bytes)) "flushed bytes"
# At most an eighth of the words can have been in memory when they were met again.
Must "$(Value 'counting, device reads' printed)" -gt 0 "device reads while counting"
Must "$(Value 'verifying, device reads' printed)" -ge $((words / 2)) "device reads while verifying"
grep -q '^verified: ' "$directory/printed" || Fail "word_count did not verify"
if [ "$resident_mib" -gt 0 ]; then
  most=$(Value 'resident at most' printed)
  Must "${most%%.*}" -gt 0 "resident MiB, which the system did not tell"
  Must "${most%%.*}" -lt "$resident_mib" "resident MiB"
fi
echo "PASSED: $live_bytes bytes of records, $log_bytes bytes of log memory"
