#!/usr/bin/env bash
# A Cloud TPU slice with vaejax installed in ~/vaejax of every worker; worker 0 has the run:
#   TPU=name ZONE=zone bash launch/tpu.sh train --config configs/celeba.py --workdir runs/celeba
# To stop it and save:  STOP=1 TPU=name ZONE=zone bash launch/tpu.sh
set -euo pipefail

program=launch/distributed.py
if [ -n "${STOP:-}" ]; then
  command="pkill -TERM -f '[l]aunch/distributed.py'"
else
  command="cd vaejax && exec .venv/bin/python $program$(printf ' %q' "$@")"
fi
# JAX asks the slice which process each worker is, and where process 0 is.
exec gcloud compute tpus tpu-vm ssh "${TPU:?the name of the slice}" \
  --zone "${ZONE:?the zone of the slice}" --worker=all --command "$command"
