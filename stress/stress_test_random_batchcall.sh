#!/usr/bin/env bash
# 10,000 calls of random batches of random size. Options: --help.
exec "$(dirname "${BASH_SOURCE[0]}")/calls.sh" random-batches "$@"
