#!/usr/bin/env bash
# Installs the stock clients that tests/clients.rs drives us with, into .clients/ of this checkout.
# Only redis-cli comes from the system: with apt-get, if it is missing and we are root.
set -euo pipefail
cd "$(dirname "$0")/../.."

die() { echo "tests/clients/install.sh: $*" >&2; exit 1; }

if ! command -v redis-cli >/dev/null; then
  [ "$(id -u)" = 0 ] || die "redis-cli is missing: install redis-tools, or run this as root"
  apt-get update -q && apt-get install -qy --no-install-recommends redis-tools
fi
command -v python3 >/dev/null || die "python3 is missing"
command -v npm >/dev/null || die "npm is missing: install Node 20 or newer (ioredis 6 needs it)"

if [ ! -x .clients/py/bin/python ]; then
  python3 -m venv .clients/py || die "python3 cannot make a venv: install python3-venv"
fi
# A stamp holds the list that is installed, so that a second run asks no registry.
if ! cmp -s tests/clients/requirements.txt .clients/py/installed; then
  .clients/py/bin/pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
  cp tests/clients/requirements.txt .clients/py/installed
fi
if ! cmp -s tests/clients/package-lock.json .clients/node/installed; then
  mkdir -p .clients/node
  cp tests/clients/package.json tests/clients/package-lock.json .clients/node/
  npm ci --prefix .clients/node --no-audit --no-fund --loglevel=error
  cp tests/clients/package-lock.json .clients/node/installed
fi
