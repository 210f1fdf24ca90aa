#!/usr/bin/env bash
# Install vaejax, pinned, into .venv:  bash launch/environment.sh [prepare|tensorboard|notebooks|docs|test|dev]
# PYTHON names the interpreter.  With nothing changed since the last time it returns at once.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

extra=${1:-}
stamp=.venv/.vaejax # "at" and this path, then a line per finished install; empty during one
log=.venv/install.log
key="$(cat pyproject.toml launch/constraints.txt | cksum) for"
version='import sys; print(sys.version_info[:2])'
# Debian ships venv without ensurepip, and a pyenv shim can be on the path and not run.
usable='import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'

die() {
  echo "environment: $*" >&2
  exit 1
}

remove() {
  rm -rf .venv 2>/dev/null || die "cannot remove $PWD/.venv"
}

create() {
  local python candidates=(python3 python3.13 python3.12 python3.11)
  if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
  for python in "${candidates[@]}"; do
    "$python" -c "$usable" 2>/dev/null || continue
    { mkdir .venv && : >"$stamp"; } 2>/dev/null || die "cannot write to $PWD"
    "$python" -m venv .venv >"$log" 2>&1 && return
    remove
  done
  die "no Python >=3.11,<3.14 with a working venv (tried: ${candidates[*]}); name one by PYTHON=..."
}

pip_install() {
  .venv/bin/python -m pip install --compile --no-input --disable-pip-version-check \
    --constraint launch/constraints.txt "$@" >>"$log" 2>&1
}

install() {
  : >"$log"
  # Constraints do not reach an isolated build, so the pinned setuptools builds from here.
  pip_install pip setuptools && pip_install --no-build-isolation --editable ".${extra:+[$extra]}"
}

[ -z "$extra" ] || grep -q "^$extra = \[" pyproject.toml || die "no extra '$extra' in pyproject.toml"

# Child processes inherit the lock: a pip that outlives a killed script still holds it.
if command -v flock >/dev/null; then
  exec 9<launch/environment.sh
  flock -n 9 || { echo "environment: waiting for another install" && flock 9; }
fi

# Interrupted, copied here with the repository, or its Python was uninstalled: remake it.
if [ -f "$stamp" ] && ! { [ -x .venv/bin/python ] && grep -qxF "at $PWD" "$stamp"; }; then remove; fi

if [ ! -e .venv ]; then
  create
elif [ ! -f "$stamp" ]; then
  die "$PWD/.venv was not made by this script; move it away"
elif [ -n "${PYTHON:-}" ] &&
  [ "$("$PYTHON" -c "$version" 2>/dev/null)" != "$(.venv/bin/python -c "$version")" ]; then
  die ".venv has another version than PYTHON=$PYTHON; remove .venv to change it"
elif grep -qxF "$key ${extra:-runtime}" "$stamp"; then
  exit 0
fi

before=$(cat "$stamp")
{ : >"$stamp"; } 2>/dev/null || die "cannot write to $PWD/.venv"
echo "environment: installing vaejax${extra:+[$extra]} into .venv, about a minute (log: $log)"
if ! install; then
  # Until pip has downloaded everything, what was there before is untouched and stays valid.
  grep -q '^Installing collected packages' "$log" || echo "$before" >"$stamp"
  die "install failed: $(grep -m 1 '^ERROR' "$log") (log: $log)"
fi

{
  echo "at $PWD"
  {
    echo "$before" | grep -F "$key" || true
    printf '%s\n' "$key runtime" ${extra:+"$key $extra"}
  } | sort -u
} >"$stamp"
