"""Who may import whom, what an import costs, and what no source file may contain."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "vaejax").rglob("*.py"))
ROOMS = ("types", "probability", "locks", "memory", "records", "progress", "parallel", "config")
ROOMS += ("data", "compilation", "models", "objectives", "training", "expost", "evaluation")
ROOMS += ("inference", "reporting", "artifact", "tables", "benchmark", "cli_errors")
ROOMS += ("cli_data", "cli_bench", "cli_evaluate", "cli_figures", "cli_report")
ROOMS += ("cli_table", "cli_density", "cli_sample", "cli_replay", "cli_export", "cli", "__main__")
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
NOT_AT_IMPORT = {"tensorflow", "tensorflow_datasets", "tensorboardX", "sklearn"}

EVERY_MODULE = """
import importlib, pkgutil, sys
import jax
from jax._src import xla_bridge
import distrax, flax, optax, orbax.checkpoint  # what third parties set is theirs
before = dict(jax.config.values)
import vaejax
names = [m.name for m in pkgutil.walk_packages(vaejax.__path__, "vaejax.")]
names = [name for name in names if not name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
assert len(names) > 20, names
assert not xla_bridge.backends_are_initialized(), "a backend was started"
changed = {k for k, v in jax.config.values.items() if v != before.get(k)}
assert not changed, changed
print(*sorted(sys.modules))
"""


def path_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "vaejax").parts[0].removesuffix(".py")


def public_names() -> dict[str, str]:
    import vaejax

    return vaejax._PUBLIC


def imported(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and dotted name of every import of our own modules, function-level ones included."""
    found, public = [], public_names()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            for alias in node.names:
                lazy = public.get(alias.name) if node.module == "vaejax" else None
                found.append((node.lineno, lazy or f"{node.module}.{alias.name}"))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "vaejax":
            found.append((node.lineno, public.get(node.attr, "vaejax")))  # `vaejax.fit` is lazy
    return [(line, name) for line, name in found if name.split(".")[0] == "vaejax"]


@pytest.mark.parametrize("path", SOURCES, ids=path_id)
def test_a_room_imports_only_from_rooms_above_it(path):
    room = room_of(path)
    if room == "__init__":
        return  # resolves names lazily; the subprocess test below holds it to that
    assert room in ROOMS, f"{room} is in no place of the order {ROOMS}"
    for line, name in imported(ast.parse(path.read_text())):
        other = name.split(".")[1] if "." in name else None
        if other is None or other.startswith("__"):
            continue  # the root: its version
        message = f"{path_id(path)}:{line} imports {name} from a room below"
        assert ROOMS.index(other) <= ROOMS.index(room), message


def test_module_imports_have_no_cycle_within_a_room():
    graph = {}
    for path in SOURCES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        top = [node for node in ast.parse(path.read_text()).body if "Import" in type(node).__name__]
        graph[module] = {name for _, name in imported(ast.Module(top, []))}
    for module, names in graph.items():
        graph[module] = {m for m in graph for n in names if n == m or n.rpartition(".")[0] == m}
        graph[module] -= {module, "vaejax"}
    while leaves := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for leaf in leaves:
            del graph[leaf]
    assert not graph, f"import cycle among {sorted(graph)}"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_importing_the_package_imports_no_library():
    loaded = run("import sys, vaejax; vaejax.__version__; dir(vaejax); print(*sorted(sys.modules))")
    heavy = {"jax", "jaxlib", "numpy", "flax", "distrax", "optax", "orbax", "tensorflow"}
    assert not heavy & set(loaded.split())


def test_importing_every_module_starts_no_backend_and_changes_no_setting():
    loaded = {name.split(".")[0] for name in run(EVERY_MODULE).split()}
    assert not NOT_AT_IMPORT & loaded


def test_every_public_name_resolves_and_others_raise():
    import vaejax

    assert set(vaejax.__all__) == set(vaejax._PUBLIC)
    for name in vaejax.__all__:
        assert getattr(vaejax, name).__module__.startswith(vaejax._PUBLIC[name])
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        vaejax.fitt  # noqa: B018


@pytest.mark.parametrize("path", SOURCES, ids=path_id)
def test_source_unpickles_and_evaluates_nothing(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            assert not names & UNSAFE_MODULES, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in UNSAFE_MODULES, node.lineno
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else None
            assert name not in UNSAFE_CALLS, node.lineno
            for keyword in node.keywords:
                allows = keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
                shell = keyword.arg == "shell" and ast.unparse(keyword.value) != "False"
                assert not allows, f"allow_pickle in line {node.lineno}"
                assert not shell, f"shell in line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=path_id)
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) < 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length < 50, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=path_id)
def test_public_functions_are_annotated(path):
    missing = []
    for name, node in public_functions(ast.parse(path.read_text())):
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        if "." in name:
            named = [argument for argument in named if argument.arg not in ("self", "cls")]
        named += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
        missing += [f"{name}({a.arg})" for a in named if a.annotation is None]
        if node.returns is None and not name.endswith(".__init__"):
            missing.append(f"{name} ->")
    assert not missing


def public_functions(tree: ast.Module) -> list[tuple[str, ast.FunctionDef]]:
    """Functions, and methods of classes, whose names have no leading underscore."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found.append((node.name, node))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found += [
                (f"{node.name}.{inner.name}", inner)
                for inner in node.body
                if isinstance(inner, ast.FunctionDef)
                and (not inner.name.startswith("_") or inner.name in ("__init__", "__call__"))
            ]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=path_id)
def test_no_module_keeps_mutable_global_state(path):
    tree = ast.parse(path.read_text())
    rebound = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Global | ast.Nonlocal)]
    assert not rebound


def test_top_level_holds_only_what_the_project_allows():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    allowed = {"pyproject.toml", "README.md", "LICENSE", "vaejax", "configs", "tests", "launch"}
    assert {name for name in top if not name.startswith(".")} <= allowed | {"notebooks"}
