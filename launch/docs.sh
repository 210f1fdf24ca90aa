#!/usr/bin/env bash
# HTML of the pages in launch/docs/, the notebooks and the docstrings, into build/docs/; a warning
# fails.  Notebooks run in their short form, once for each state of them and of the package.
# Arguments go to Sphinx (-E reads all pages anew).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash launch/environment.sh docs
outputs=build/docs-outputs/$(find vaejax configs notebooks -name '*.py' -o -name '*.ipynb' |
  LC_ALL=C sort | xargs cat | cksum | cut -d ' ' -f 1)
.venv/bin/python -m sphinx -W --keep-going -q -c launch/docs -d build/docs-trees \
  -D nb_execution_cache_path="$outputs" "$@" . build/docs
echo "docs: open build/docs/index.html"
