#!/usr/bin/env bash
# `make test`: builds the program as users run it, then runs every test against that build.
# Arguments go to the test runner: tests/run.sh -p raft-core
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --locked -p server
export FLOTILLA_BIN="${FLOTILLA_BIN:-$PWD/target/release/flotilla}"
# Examples in documentation come first: nextest does not run them, and its summary ends the output.
cargo test --workspace --locked --doc --quiet
if command -v cargo-nextest >/dev/null; then
  cargo nextest run --workspace --locked --no-fail-fast "$@"
else
  cargo test --workspace --locked --lib --bins --tests --no-fail-fast "$@"
fi
# Rules broken on purpose, in a build of its own; with arguments only what they name is run.
if [ $# -eq 0 ]; then
  cargo test --locked -p tests --features mutants --test mutants -- --nocapture
fi
