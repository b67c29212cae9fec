#!/usr/bin/env bash
# Calls POST /predict many times by curl: what the scripts beside it have in common. Try stress_test.sh --help.
#
# curl itself makes the calls, a thousand or so per process: its config file holds a request for each, all with
#   url = ".../predict"    data-binary = "@a file with the rows"    output = "a file for the answer"
# and its --write-out says a line for each: number, HTTP status, seconds, error. Python plans, writes bodies and reads lines.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python="$root/.venv/bin/python"
[ -x "$python" ] || { echo "$python is missing: run \`make install\` first" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m stress plan "$@" --work "$work"
[ -f "$work/parts" ] || exit 0 # it was only asked for help

while read -r first last; do
    "$python" -m stress bodies "$work" "$first" "$last"
    # What becomes of each call stands in its line; curl's own exit code says less.
    curl --no-progress-meter --parallel --parallel-max "$(cat "$work/concurrency")" --config "$work/calls.curl" || true
done < "$work/parts" | "$python" -m stress tally "$work"
