#!/usr/bin/env bash
# From a clean checkout to figures: a beta-TC-dpVAE of handwritten digits.
# Arguments go to training (bash launch/quickstart.sh --config.latent_dim=10); WORKDIR moves the run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

workdir=${WORKDIR:-runs/quickstart}
finished=$workdir/.quickstart

bash launch/environment.sh
.venv/bin/vaejax train --config configs/digits.py --workdir "$workdir" "$@"

# Training that was complete already has written nothing since, and the results still hold.
if [ -f "$finished" ] && [ -z "$(find "$workdir" -type f -newer "$finished")" ]; then
  echo "quickstart: $workdir is finished; remove $finished to evaluate and draw again"
  exit
fi

for command in evaluate figures sample; do
  .venv/bin/vaejax "$command" --workdir "$workdir"
done
touch "$finished"
echo "quickstart: finished, results in $workdir"
