#!/usr/bin/env bash
# `make cluster`: the cluster of cluster.toml as four processes on this machine: nodes 1 to 3 and a
# router on port 7000. Data and logs go to flotilla-data/cluster. A process that ends, by `kill -9`
# for one, is told and the others go on. Ctrl-C or SIGTERM stops all; a second start resumes.
# README.md in this folder does the same by hand.
set -euo pipefail
cd "$(dirname "$0")/.."
flotilla="$PWD/target/release/flotilla"
data="$PWD/flotilla-data/cluster"

mkdir -p "$data"
cp examples/cluster.toml "$data/cluster.toml"
[ -s "$data/cluster.secret" ] || (umask 077 && head -c 32 /dev/urandom | base64 >"$data/cluster.secret")

declare -A names=() commands=() # by process id
started=
stopping=
failed=

start() { # name, then the program's arguments
  "$flotilla" "${@:2}" 2>>"$data/$1.log" &
  names[$!]=$1
  printf -v commands[$!] "%q " "$flotilla" "${@:2}"
  started+="$1 $!  "
}

stop() {
  # What counts from here on is whether the rest ends well.
  stopping=1 failed=
  # One may have ended just now.
  kill "${!names[@]}" 2>/dev/null || true
}

tell() { # name, exit code, command
  local how="with code $2"
  # The shell's way to say that a signal ended it.
  [ "$2" -le 128 ] || how+=" (SIG$(kill -l "$2"))"
  [ "$2" -eq 0 ] || failed=1
  if [ -n "$stopping" ]; then
    echo "$1 ended $how"
    return
  fi
  echo "$1 ended $how${names[*]:+; these go on: ${names[*]}}"
  echo "  the end of $data/$1.log:"
  tail -n 3 "$data/$1.log" | sed 's/^/    /'
  echo "  to start it again, in another terminal:"
  echo "    $3"
}

trap stop INT TERM
for id in 1 2 3; do
  start "node-$id" node --id "$id" --dir "$data/node-$id" --cluster-file "$data/cluster.toml"
done
start router router --listen 127.0.0.1:7000 --cluster-file "$data/cluster.toml"

echo "nodes     127.0.0.1:7001 7002 7003 (any serves any key), logs and data in $data"
echo "router    127.0.0.1:7000"
echo "processes $started"
echo "try       redis-cli -p 7000 CLUSTER SHARDS"
echo "stop      Ctrl-C"
# A signal may have come while they were started.
[ -z "$stopping" ] || stop

while [ ${#names[@]} -gt 0 ]; do
  # It may wake without an end, for a signal, and does not name each end: so all are looked at. Of a
  # kill the shell says a line of its own, which is not as clear.
  wait -n "${!names[@]}" 2>/dev/null || true
  for id in "${!names[@]}"; do
    if kill -0 "$id" 2>/dev/null; then continue; fi
    code=0
    wait "$id" 2>/dev/null || code=$?
    name=${names[$id]} command=${commands[$id]}
    unset "names[$id]" "commands[$id]"
    tell "$name" "$code" "$command"
  done
done
[ -n "$stopping" ] || echo "every process has ended"
[ -z "$failed" ]
