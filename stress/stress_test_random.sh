#!/usr/bin/env bash
# 10,000 calls of one randomly chosen row each. Options: --help.
exec "$(dirname "${BASH_SOURCE[0]}")/calls.sh" random-rows "$@"
