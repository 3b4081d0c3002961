"""The structure that the design promises: who may import whom, what stays light, how large a file may be."""

import ast
import gc
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "vllm", "transformers", "datasets", "ray"}
STANDARD = set(sys.stdlib_module_names)
LEAVES = ("schema", "errors", "seeds")
STAGES = ("ingest", "overlap", "rollout", "imports", "label", "judge", "shard")
# What prm may see of curate besides the pure modules: the language and the ground floor.
PRM_SEES = {
    "schema", "errors", "seeds", "config", "sections", "source_sections", "lock", "store", "lineage", "golds",
    "catalog", "frames", "stage", "chain", "progress", "signals", "plain_yaml",
    "prompts", "steps", "montecarlo", "images", "answers", "consensus",
    # Not a part of the chain: the repair that every process needs before it imports transformers.
    "engines.torch_companions",
    "engines.models",
    # Nor this: the one place where models are loaded.
    "engines.pretrained",
    # The testbed's exact step truth, and published benchmarks as `curate ingest` reads them, for measuring.
    "sources", "recipes",
}  # fmt: skip
MODULES = sorted([*(ROOT / "curate").rglob("*.py"), *(ROOT / "prm").rglob("*.py")])


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def parsed(path: Path) -> ast.Module:
    """The collector waits: where a finalizer of an earlier test's object fails meanwhile, pytest's report of it parses,
    too, and CPython 3.11 takes that for a recursion of its own ("AST constructor recursion depth mismatch").
    """
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()


def imports(path: Path, top_level: bool = False) -> set[str]:
    tree = parsed(path)
    nodes = list(ast.walk(tree))
    if top_level:
        guarded = {
            id(child)
            for node in nodes
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
            for child in ast.walk(node)
        }
        nodes = [node for node in nodes if id(node) not in guarded]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_is_short_and_says_what_it_is(path):
    text = path.read_text()
    limit = 400
    assert len(text.splitlines()) <= limit
    if text.strip():
        assert ast.get_docstring(parsed(path)), "no module docstring"
    assert path.stem not in ("utils", "common")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_polars_is_imported_in_one_place(path):
    assert not any(name.split(".")[0] == "polars" for name in imports(path)) or name_of(path) == "curate.frames"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path):
    name = name_of(path)
    used = imports(path)
    packages = {item.split(".")[0] for item in used}
    if name.startswith("curate"):
        assert "prm" not in packages
    if name.startswith("prm"):
        seen = {item.removeprefix("curate.") for item in used if item.startswith("curate.")}
        strangers = {s for s in seen if not any(s == ok or s.startswith(ok + ".") for ok in PRM_SEES)}
        assert not strangers
    if ".cli" not in name and not name.endswith(".__main__"):
        assert not any(".cli" in item for item in used if item.startswith(("curate", "prm")))
    if name in {f"curate.{leaf}" for leaf in LEAVES}:
        assert packages - STANDARD <= {"pyarrow", "__future__"}
    if name in {f"curate.{stage}" for stage in STAGES}:
        others = {f"curate.{stage}" for stage in STAGES} - {name}
        assert not {".".join(item.split(".")[:2]) for item in used} & others
    if "duckdb" in packages:
        assert name == "curate.catalog"
    if "vllm" in packages:
        assert name.startswith("curate.engines.vllm")


@pytest.mark.parametrize("module", ["curate", "prm", "curate.cli.app", "prm.cli.app", "prm.stages", "curate.chain"])
def test_importing_pulls_in_nothing_heavy(module):
    code = f"import sys, {module}; print(sorted(set(sys.modules) & {HEAVY!r}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("app", ["curate.cli.app", "prm.cli.app"])
def test_every_command_has_help(app):
    code = f"from {app} import app; import typer; print(*typer.main.get_command(app).commands)"
    names = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.split()
    assert names
    from importlib import import_module

    from typer.testing import CliRunner

    for command in [[], *([name] for name in names)]:
        result = CliRunner().invoke(import_module(app).app, [*command, "--help"])
        assert result.exit_code == 0
        assert "Usage" in result.output
