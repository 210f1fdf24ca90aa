#!/usr/bin/env bash
# The picture of the README, launch/docs/pockets.png: two runs on two moons, about two minutes on 2
# cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

runs=${RUNS:-runs/picture}
for prior in standard_normal decoupled; do
  vaejax train --config configs/two_moons.py --workdir "$runs/$prior" \
    --config.regularizer=none --config.prior="$prior"
done
vaejax figures --workdir "$runs/standard_normal" --pair "$runs/decoupled" --figures pockets
python - "$runs/standard_normal/figures/pockets_pair_decoupled.png" <<'END'
import sys
from PIL import Image

picture = Image.open(sys.argv[1]).convert("RGB").quantize(64, dither=Image.Dither.NONE)
picture.save("launch/docs/pockets.png", optimize=True)
END
