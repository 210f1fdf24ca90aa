#!/usr/bin/env bash
# Lint, format, types, tests, each even if an earlier one failed; CI adds tests with the mark long.
# Arguments go to pytest, e.g.  bash launch/test.sh -m slow
# With --browser first, Debian's Chromium is installed (as root), which tests of pages need.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "${1:-}" = --browser ]; then
  shift
  command -v chromium >/dev/null ||
    { apt-get update && apt-get install -y --no-install-recommends chromium; }
fi

bash launch/environment.sh test

export PYRIGHT_PYTHON_IGNORE_WARNINGS=1 # otherwise it asks the network for a newer version
failed=()

check() {
  echo "== $*"
  .venv/bin/python -m "$@" || failed+=("'$*'")
}

check ruff check .
check ruff format --check .
check pyright
check pytest "$@"

if [ ${#failed[@]} -gt 0 ]; then
  echo "test: failed: ${failed[*]}" >&2
  exit 1
fi
