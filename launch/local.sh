#!/usr/bin/env bash
# Several processes on this machine, each with simulated devices, that train one model:
#   bash launch/local.sh PROCESSES DEVICES train --config configs/tiny.py --workdir runs/tiny
# To try what happens on many hosts.  A machine's own devices need no launcher: vaejax train.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage="local: error: give the processes, the devices of each, and train ..."
[[ ${1:-} =~ ^[1-9][0-9]*$ && ${2:-} =~ ^[1-9][0-9]*$ ]] || { echo "$usage" >&2; exit 2; }
processes=$1
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$2"
# On few cores the collectives of simulated devices can wait for each other for ever otherwise.
export JAX_PLATFORMS=cpu JAX_CPU_ENABLE_ASYNC_DISPATCH=0
shift 2

python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || {
  echo "local: error: no $python; bash launch/environment.sh makes it, or PYTHON names one" >&2
  exit 2
}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
pids=()
for ((i = 0; i < processes; i++)); do
  "$python" launch/distributed.py --coordinator "127.0.0.1:$port" --processes "$processes" \
    --process "$i" --patience "${PATIENCE:-30}" "$@" &
  pids+=("$!")
  echo "local: process $i is $!" >&2
done

trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM
status=0
for pid in "${pids[@]}"; do
  ended=0
  wait "$pid" || ended=$?
  while kill -0 "$pid" 2>/dev/null; do # a signal to this script ended the wait
    ended=0
    wait "$pid" || ended=$?
  done
  if ((ended > status)); then status=$ended; fi
done
exit "$status"
