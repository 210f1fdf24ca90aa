#!/usr/bin/env bash
# From a clean checkout to a page: a VAE of handwritten digits with two priors, side by side.
# Arguments go to training (bash launch/quickstart.sh --config.regularizer=beta_h); WORKDIR moves
# the runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

workdir=${WORKDIR:-runs/quickstart}
finished=$workdir/.finished
runs=("$workdir/standard_normal" "$workdir/decoupled")

bash launch/environment.sh
for run in "${runs[@]}"; do
  .venv/bin/vaejax train --config configs/digits.py --workdir "$run" "$@" \
    --config.prior="$(basename "$run")"
done

# Training that was complete already has written nothing since, and the results still hold.
if [ -f "$finished" ] && [ -z "$(find "$workdir" -type f -newer "$finished")" ]; then
  echo "quickstart: $workdir is finished; remove $finished to evaluate and draw again"
  exit
fi

for run in "${runs[@]}"; do
  .venv/bin/vaejax evaluate --workdir "$run" --samples 297 \
    --metrics symmetric_kl information leakage frechet precision_recall
done
.venv/bin/vaejax report "${runs[@]}" --out "$workdir/report.html"
touch "$finished"
echo "quickstart: finished; open $workdir/report.html"
