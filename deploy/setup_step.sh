#!/usr/bin/env bash
# Runs one step of `make setup`: setup_step.sh NAME COMMAND...
# Prints the name of the step, a line every 2 s while the step runs, and its seconds. Appends the command's output to
# .setup.log, and prints the end of the output if the command fails.
set -euo pipefail

name=$1 log=.setup.log
shift
began=$(date +%s%N)

# The time since the begin of the step, in seconds with one decimal.
passed() {
  local tenths=$((($(date +%s%N) - began) / 100000000))
  echo "$((tenths / 10)).$((tenths % 10)) s"
}

echo "setup: $name ..." >&2
echo "== $(date -u +%FT%TZ) $name: $*" >>"$log"
begin_of_output=$(wc -l <"$log")
(while sleep 2 >/dev/null 2>&1; do echo "setup: $name ... $(passed)" >&2; done) &
ticker=$!
trap 'kill "$ticker" 2>/dev/null || true' EXIT
if ! "$@" >>"$log" 2>&1; then
  tail -n "+$((begin_of_output + 1))" "$log" | tail -n 20 >&2
  echo "setup: $name failed after $(passed). $log contains the whole output." >&2
  exit 1
fi
echo "setup: $name done in $(passed)" >&2
