#!/bin/sh
# Counts instructions per operation: inlined, called through a function that is not inlined, and in
# batches of 64. On 8-byte keys and values, hit path, in memory.
#
#   instructions.sh path/to/ebb_instructions [NAME=MOST...]
#
# Fails when a named figure is more than 10 % above its maximum. Prints lines "read 61.2",
# "called_read 61.2" and "batched_read 61.2". Callgrind counts inside the measured loop only; the
# same loop without a store is subtracted, so a figure is the cost of the operation alone. Counts
# repeat to the instruction on one machine and compiler, even while the machine is busy.
set -eu
program=${1:?usage: instructions.sh path/to/ebb_instructions [NAME=MOST...]}
shift
keys=80000 # 4.9 keys a bucket, as in the store of ten million

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM

count() { # count store|empty single|called|batched VERB
  valgrind --tool=callgrind --callgrind-out-file="$folder/out" --collect-atstart=no \
    --toggle-collect='*CountedLoop*' "$program" "$1" "$2" "$3" "$keys" 2>"$folder/log" >&2 || {
    cat "$folder/log" >&2
    exit 1
  }
  sed -n 's/^summary: \([0-9]*\).*/\1/p; s/^totals: \([0-9]*\).*/\1/p' "$folder/out" | tail -n 1
}

failed=0
for form in single called batched; do
  for verb in read upsert rmw; do
    whole=$(count store "$form" "$verb")
    loop=$(count empty "$form" "$verb")
    name=$verb
    [ "$form" = single ] || name=${form}_$verb
    most=0 # any
    for limit in "$@"; do
      [ "${limit%%=*}" != "$name" ] || most=${limit#*=}
    done
    awk -v name="$name" -v whole="$whole" -v loop="$loop" -v keys="$keys" -v most="$most" '
      BEGIN {
        figure = (whole - loop) / keys
        grown = most != 0 && figure > 1.1 * most
        printf "%s %.1f%s\n", name, figure, grown ? " is more than 10 % above " most : ""
        exit grown
      }' || failed=1
  done
done
exit "$failed"
