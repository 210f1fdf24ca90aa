"""Where TensorFlow is installed, nothing of ours imports it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
import vaejax
from vaejax.config import load_config
from vaejax.evaluation.evaluate import evaluate
from vaejax.reporting.run import write_figures

config = load_config("configs/tiny.py:digits").unlock()
config.placement = "streamed"
vaejax.fit(config, sys.argv[1])
evaluate(sys.argv[1], importance_samples=2)
write_figures(sys.argv[1])
assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules)
import tensorflow  # what we hid, others still find
"""


@pytest.mark.long
def test_training_evaluation_and_figures_import_no_tensorflow(tmp_path):
    package, marker = tmp_path / "site" / "tensorflow", tmp_path / "imported"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"open({str(marker)!r}, 'a').write('once ')\n")
    paths = os.pathsep.join([str(package.parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert marker.read_text() == "once "
