#!/usr/bin/env bash
# 10,000 calls of one row each: every row of data/test.json once. Options: --help.
exec "$(dirname "${BASH_SOURCE[0]}")/calls.sh" each-row "$@"
