#!/usr/bin/env bash
# `make lint`: what can be said about the code without running it.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo test --locked -p tests --test tidy --quiet
# Licences, sources and bans need no network. Advisories do: `cargo deny check advisories`.
if command -v cargo-deny >/dev/null; then
  cargo deny --locked --offline check --hide-inclusion-graph bans licenses sources
else
  echo "cargo-deny is not installed: licences and sources were not checked"
fi
