"""Configs and command lines of all kinds, for `test_fuzz.py`; RUN, HOME and FILE are places."""

import math

from hypothesis import strategies as st

from vaejax.config import CHOICES, load_config

BAD = [None, True, "", "x", "1", [], {}, -1, 0, 1, 1.5, math.nan, math.inf, 10**30, 10**400]
VALUES = {
    int: [0, 1, 2, 3, 24, 96, 97, -1, 2**31 - 1, 2**31, 2**63, 10**30],
    float: [0.0, -0.0, -1.0, 0.5, 1.0, 1, 2.0, 1e-320, 1e-30, 1e30, 1e308, math.nan, -math.inf],
    str: ["", "none", "x" * 5_000, "../../etc", "/", "\0", "\x1b[2J", "d\u00e9coder", "\U0001f4a5"],
    bool: [True, False, 0, 1, "true"],
    tuple: [[], [0], [1], [8, 8], [-1], ["a"], [1] * 1_000, [10**9], [2**31] * 4, [[1]], 3, "8"],
}
VALUES[str] += ["a\nb", "\ud800", "decopled", "~", "mean", "tests"]
DATASETS = ["two_moons", "swiss_roll", "stand_in", "digits", "arrays", "image_folder", "mnist"]
DATASETS += ["tfds", "two_mons"]


def flat(tree, prefix=""):
    """Dotted key -> value, of the leaves of nested mappings."""
    found = {}
    for key, value in tree.items():
        found |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found


TREE = load_config("configs/tiny.py").to_dict()
LEAVES = flat(TREE)


@st.composite
def changes(draw):
    """Dotted key -> value: choices of names, then a few leaves, of which any may be bad."""
    found = {"dataset": draw(st.sampled_from(DATASETS))} if draw(st.booleans()) else {}
    for choice in draw(st.lists(st.sampled_from(sorted(CHOICES)), max_size=4, unique=True)):
        if choice != "dataset":
            found[choice] = draw(st.sampled_from(sorted(TREE[CHOICES[choice]])))
    used = [f"{table}.{found.get(choice, TREE[choice])}." for choice, table in CHOICES.items()]
    used = [key for key in LEAVES if "." not in key or key.startswith(tuple(used))]
    keys = draw(st.sampled_from([used, used, used, sorted(LEAVES)]))
    for key in draw(st.lists(st.sampled_from(keys), max_size=3, unique=True)):
        values = VALUES[type(LEAVES[key])]
        found[key] = draw(st.sampled_from(draw(st.sampled_from([values, values, BAD]))))
    if draw(st.integers(0, 9)) == 0:
        key = draw(st.sampled_from(sorted(LEAVES) + sorted(CHOICES.values())))
        found[draw(st.sampled_from([key + "x", key[:-1], f"{key}.more", "", "."]))] = 1
    if draw(st.integers(0, 9)) == 0:
        found[draw(st.sampled_from(sorted(CHOICES.values())))] = draw(st.sampled_from(BAD))
    steps = found.get("num_steps")
    if isinstance(steps, int) and 3 < steps < 2**31:
        del found["num_steps"]  # it would be trained
    return found


NUMBERS = st.sampled_from(
    ["0", "1", "2", "-1", "x", "", "1.5", "nan", "1e3", str(2**31), str(10**30)]
)
TEXTS = st.sampled_from(["prior", "", "..", "../x", "/", "a/b", "nope", "gmm", "\ud800", "\x1b[2J"])
PATHS = st.sampled_from(["RUN", "HOME", "FILE", "HOME/none", "RUN/../run", "HOME/\x1b[2J", ""])
CONFIGS = st.sampled_from(
    ["configs/tiny.py", "configs/tiny.py:x", "HOME", "FILE", "RUN/config.json"]
)
CONFIGS |= st.sampled_from(["configs/tiny.py:../tiny", "pyproject.toml", "README.md", "none.py"])
RUN = {"--workdir": PATHS, "--checkpoint": NUMBERS, "--config": CONFIGS, "--config.seed": NUMBERS}
FLAGS = {
    ("train",): {**RUN, "--devices": NUMBERS, "--quiet": None, "--replicas": TEXTS},
    ("evaluate",): {
        **RUN,
        "--split": TEXTS,
        "--importance-samples": NUMBERS,
        "--importance-examples": NUMBERS,
        "--metrics": TEXTS,
        "--sets": TEXTS,
        "--samples": NUMBERS,
        "--thresholds": NUMBERS,
        "--inception": PATHS,
        "--source": TEXTS,
        "--other-data": None,
    },
    ("sample",): {
        **RUN,
        "--num": NUMBERS,
        "--seed": NUMBERS,
        "--source": TEXTS,
        "--chain": st.sampled_from(["denoising", "langevin", "x", ""]),
        "--steps": NUMBERS,
        "--start": TEXTS,
        "--chain-options": st.sampled_from(["draw=true", "draw", "step_size=nan", "scale=1", "="]),
    },
    ("figures",): {**RUN, "--figures": TEXTS | st.just("training"), "--pair": PATHS},
    ("fit-density",): {
        "--workdir": PATHS,
        "--density": st.sampled_from(["gaussian", "gmm", "x", ""]),
        "--name": TEXTS | st.sampled_from(["test_x", "g\n", "x" * 300]),
        "--checkpoint": NUMBERS,
        "--config.held_out": NUMBERS,
        "--config.densities.gmm.num_components": NUMBERS,
        "--config.densities.gmm.candidates": NUMBERS,
    },
    ("replay",): {"--workdir": PATHS, "--step": NUMBERS},
    ("report",): {"--out": PATHS, "--source": TEXTS},
    ("table",): {"--workdir": PATHS, "--config": CONFIGS | st.just("configs/table_digits.py")},
    ("bench",): {
        "--config": CONFIGS,
        "--rounds": st.sampled_from(["0", "-1", "x", "1"]),
        "--steps": st.sampled_from(["-1", "x", "1"]),
        "--devices": NUMBERS,
        "--against": TEXTS,
        "--json": PATHS,
    },
    ("data", "list"): {},
    ("data", "info"): {},
    ("data", "prepare"): {"--from": PATHS, "--crop": NUMBERS, "--unverified": None},
    ("dta",): {},
    (): {"--help": None, "--version": None},
}
NEED_CONFIG = [("table",), ("bench",)]
ODD = ["--confg=x", "-h", "--", "-", "x", "--config.", "--config.=1", "--config.seed", "--workdir"]
ODD += ["--config.prior=x=y", "--config", "--config.seed=1=2", "RUN", "\x1b[2J", "mnist", "digits"]


@st.composite
def command_lines(draw):
    """A command with flags that it needs, and a few more, of which any may be bad."""
    command = draw(st.sampled_from(sorted(FLAGS)))
    found = list(command)
    for flag, values in FLAGS[command].items():
        is_needed = flag == "--workdir" or (flag == "--config" and command in NEED_CONFIG)
        if draw(st.integers(0, 9)) >= (9 if is_needed else 3):
            continue
        if is_needed and draw(st.integers(0, 9)) < 8:
            values = st.just("RUN" if flag == "--workdir" else "configs/tiny.py")
        found += [flag] if values is None else [flag, draw(values)]
    if command == ("report",) and draw(st.integers(0, 9)) < 8:
        found.append("RUN")
    if draw(st.integers(0, 3)) == 0:
        found.insert(draw(st.integers(len(command), len(found))), draw(st.sampled_from(ODD)))
    return found + (["--rounds", "1", "--no-startup"] if command == ("bench",) else [])
