#!/usr/bin/env bash
# HTML of the pages in launch/docs/, the notebooks and the docstrings, into build/docs/; a warning
# fails.  Notebooks run in full, some minutes each, and again only when they or the package have
# changed; VAEJAX_NOTEBOOK_STEPS=50 makes them short.  Arguments go to Sphinx:
# bash launch/docs.sh -D nb_execution_mode=off shows notebooks without figures, in a minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash launch/environment.sh docs
state=$({
  find vaejax configs notebooks -name '*.py' -o -name '*.ipynb' | LC_ALL=C sort | xargs cat
  echo "${VAEJAX_NOTEBOOK_STEPS:-all}"
} | cksum | cut -d ' ' -f 1)
.venv/bin/python -m sphinx -W --keep-going -q -c launch/docs -d build/docs-pages \
  -D nb_execution_cache_path="build/docs-outputs/$state" "$@" . build/docs
cat >build/docs/index.html <<'END'
<!doctype html><meta http-equiv="refresh" content="0; url=launch/docs/index.html">
END
echo "docs: open build/docs/index.html"
