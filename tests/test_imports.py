"""Imports run one way, without circles, and what is heavy is imported only when it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import wound_jax

pytestmark = pytest.mark.quick

PACKAGE = Path(wound_jax.__file__).parent

# From the ground up. A module imports from its own floor and from those below; a name stands for a
# module or a folder, and the longest one that fits decides.
FLOORS = (
    ("__init__", "errors", "arrays", "cli", "files", "registry"),
    tuple(
        f"{room}.settings"
        for room in ("data", "models", "losses", "training", "prediction", "evaluation")
    ),
    ("config",),
    ("devices",),
    ("data",),
    ("models", "losses", "baselines"),
    ("training",),
    ("prediction",),
    ("evaluation",),
    ("report",),
    ("experiments",),
    (
        "train",
        "evaluate",
        "compare",
        "leave_one_out",
        "ensemble",
        "predict",
        "convert",
        "synthetic",
        "velocity",
        "config.__main__",
    ),
    ("__main__",),
)


def name_of(path: Path) -> str:
    """The dotted name of a module inside the package; that of a folder is its `__init__`'s."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(module: str) -> Iterator[str]:
    """The package's modules that a module imports, inside functions too, for types not."""
    for node in outside_type_checking(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import; write the whole path"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield from named_module(name)


def outside_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from outside_type_checking(node)


def named_module(name: str) -> Iterator[str]:
    """The module behind `wound_jax.a.b.c`: a.b.c itself, or a.b if c is something inside it."""
    first, _, rest = name.partition(".")
    if first != "wound_jax":
        return
    if rest in MODULES:
        yield rest
    elif rest.rpartition(".")[0] in MODULES:
        yield rest.rpartition(".")[0]
    else:
        yield "__init__"


GRAPH = {module: set(imports_of(module)) - {module} for module in MODULES}


def floor_of(module: str) -> int:
    fits = [
        (len(name), floor)
        for floor, names in enumerate(FLOORS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    assert fits, f"{module} stands on no floor; add it to the table"
    return max(fits)[1]


def test_the_graph_is_read_from_all_modules():
    assert len(MODULES) > 50
    assert GRAPH["cli"] == {"errors", "files"}
    assert "training.launch" in GRAPH["train"], "imports inside functions count"
    assert "data.spec" not in GRAPH["predict"], "imports for types do not"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_its_floor_or_below(module):
    above = sorted(name for name in GRAPH[module] if floor_of(name) > floor_of(module))
    assert not above, f"{module} imports upwards: {', '.join(above)}"


def test_no_circles():
    TopologicalSorter(GRAPH).prepare()


def loaded_after(code: str, *heavy: str) -> set[str]:
    """Which of some packages are loaded after a program has run in a fresh interpreter."""
    program = f"import sys\n{code}\nprint(*({set(heavy)!r} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


HEAVY = ("jax", "flax", "ott", "scanpy", "anndata", "sklearn", "matplotlib", "orbax")


@pytest.mark.parametrize("module", ["wound_jax", "wound_jax.config", "wound_jax.config.__main__"])
def test_the_config_needs_nothing_heavy(module):
    assert loaded_after(f"import {module}", *HEAVY, "numpy") == set()


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "convert"])
def test_help_and_a_wrong_config_need_nothing_heavy(command):
    call = f"from wound_jax.{command} import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert loaded_after(call, *HEAVY) == set()


def test_ott_is_loaded_by_the_loss_that_needs_it_alone():
    code = "import wound_jax.training.loop, wound_jax.losses.registry as l; l.make_loss('energy')"
    assert loaded_after(code, "ott", "scanpy", "matplotlib") == set()
