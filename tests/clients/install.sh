#!/bin/sh
# Installs the client libraries that the tests drive into target/clients, pinned by the lock files beside the drivers.
# Does nothing where they are there already. From anywhere: sh tests/clients/install.sh
#
# Needs python3 with venv, node (18 or later) and npm.
set -eu
cd "$(dirname "$0")/../.."

drivers=tests/clients/drivers
to=target/clients
locks=$(cat "$drivers/requirements.txt" "$drivers/package-lock.json" | cksum)
if [ "$(cat "$to/installed" 2>/dev/null)" = "$locks" ]; then
    exit 0
fi
rm -rf "$to"
mkdir -p "$to"
python3 -m venv "$to/venv"
"$to/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
    --requirement "$drivers/requirements.txt"
cp "$drivers/package.json" "$drivers/package-lock.json" "$to"
npm ci --prefix "$to" --ignore-scripts --no-audit --no-fund --silent
echo "$locks" >"$to/installed"
