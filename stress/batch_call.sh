#!/usr/bin/env bash
# All of data/test.json in one call. Options: --help.
exec "$(dirname "${BASH_SOURCE[0]}")/calls.sh" whole-file "$@"
