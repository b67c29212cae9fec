#!/usr/bin/env bash
# The common part of the scripts in this folder: makes the calls by curl and compares the answers. Options: --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python="$root/.venv/bin/python"
[ -x "$python" ] || { echo "$python is missing: run \`make install\` first" >&2; exit 1; }
exec "$python" -m stress curl "$@"
