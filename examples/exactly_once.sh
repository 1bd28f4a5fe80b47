#!/usr/bin/env bash
# `make exactly-once CLIENT=redis-py`: one of the programs exactly_once.* appends words over two routers while these are
# killed (SIGKILL) in turn and started again; at its end it counts what is there. CLIENT may be redis-py, ioredis,
# redis-rs, or jedis, for which CLASSPATH names the jars; WORDS is how many. The cluster is that of cluster.toml at ports of its own, its data in a folder that goes with it.
set -euo pipefail
cd "$(dirname "$0")/.."
client=$1 words=$2
data=$(mktemp -d)
routers=(127.0.0.1:27000 127.0.0.1:27010)
declare -A processes=() # by name

start() { # name, then the program's arguments
  target/release/flotilla "${@:2}" --log error &
  processes[$1]=$!
}

start_router() { # 0 or 1
  start "router-$1" router --listen "${routers[$1]}" --cluster-file "$data/cluster.toml"
}

program() {
  case $client in
    redis-py) exec .clients/py/bin/python examples/exactly_once.py "$@" ;;
    # Node looks for ioredis in the folder where it runs.
    ioredis) exec <examples/exactly_once.mjs && cd .clients/node && exec node --input-type=module - "$@" ;;
    redis-rs) exec target/release/exactly_once "$@" ;;
    jedis) exec java examples/ExactlyOnce.java "$@" ;;
    *) echo "CLIENT is redis-py, ioredis, redis-rs or jedis" >&2 && exit 2 ;;
  esac
}

trap 'kill "${processes[@]}" 2>/dev/null; wait; rm -rf "$data"' EXIT
sed 's/"127.0.0.1:7/"127.0.0.1:27/' examples/cluster.toml >"$data/cluster.toml"
(umask 077 && head -c 32 /dev/urandom | base64 >"$data/cluster.secret")
for id in 1 2 3; do
  start "node-$id" node --id "$id" --dir "$data/node-$id" --cluster-file "$data/cluster.toml"
done
start_router 0
start_router 1

# It need not wait for them: what is not served yet is sent again, too.
program "${routers[@]}" "$words" &
processes[program]=$!
next=0
while sleep 0.5 && kill -0 "${processes[program]}" 2>/dev/null; do
  kill -9 "${processes[router-$next]}"
  # Of a kill the shell would say a line of its own.
  wait "${processes[router-$next]}" 2>/dev/null || true
  echo "killed the router ${routers[next]}"
  start_router "$next"
  next=$((1 - next))
done
wait "${processes[program]}"
