#!/usr/bin/env bash
# `make cluster`: the cluster of cluster.toml as four processes on this machine: nodes 1 to 3 and a
# router on port 7000. Data and logs go to flotilla-data/cluster; Ctrl-C stops all; a second start
# resumes. README.md in this folder does the same by hand.
set -euo pipefail
cd "$(dirname "$0")/.."
flotilla="$PWD/target/release/flotilla"
data="$PWD/flotilla-data/cluster"

mkdir -p "$data"
cp examples/cluster.toml "$data/cluster.toml"
[ -s "$data/cluster.secret" ] || (umask 077 && head -c 32 /dev/urandom | base64 >"$data/cluster.secret")

trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
trap 'exit 0' INT TERM
for id in 1 2 3; do
  "$flotilla" node --id "$id" --dir "$data/node-$id" --cluster-file "$data/cluster.toml" 2>>"$data/node-$id.log" &
done
"$flotilla" router --listen 127.0.0.1:7000 --cluster-file "$data/cluster.toml" 2>>"$data/router.log" &

echo "nodes     127.0.0.1:7001 7002 7003 (any serves any key), logs and data in $data"
echo "router    127.0.0.1:7000"
echo "try       redis-cli -p 7000 CLUSTER SHARDS"
echo "stop      Ctrl-C"
# The first process that ends takes the others with it. One that ends well was told to.
wait -n && exit 0
echo "a process failed; the ends of the logs:" >&2
tail -n 3 "$data"/*.log >&2
exit 1
