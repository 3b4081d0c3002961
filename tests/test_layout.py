"""The structure that the design promises: who may import whom, what stays light, how large a file may be."""

import ast
import gc
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from curate.tables.schema import TABLES
from prm.reporting.columns import COLUMNS

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "vllm", "transformers", "datasets", "ray"}
STANDARD = set(sys.stdlib_module_names)
# The rooms of each package, lowest first: a module imports from its own room and from those before it. Imports within
# functions and for type checkers count, too.
LAYERS = {
    "curate": (
        "errors", "seeds", "pixels", "images", "runtime", "models", "text", "graders", "recipe", "tables", "engines",
        "sources", "stages", "upgrading", "exports", "discovery", "pipeline", "inspect", "api", "cli",
    ),
    "prm": (
        "aggregations", "loss_table", "validation_config", "config", "sections", "metrics", "losses", "data", "model",
        "distributed",
        "bilevel", "scoring", "training", "reporting", "render", "bench", "serving", "stages", "api", "cli", "__main__",
    ),
}  # fmt: skip
# What the public functions of a package are made of; nothing within it imports them from there.
PUBLIC = ("curate", "prm")
STAGES = ("ingest", "overlap", "rollout", "label", "judge", "shard")
# What prm may see of curate, rooms and single modules: the language and the ground floor.
PRM_SEES = {
    "errors", "seeds", "images", "runtime", "models", "text", "graders", "recipe", "tables", "pipeline", "api",
    # Pure rules that figures of the report are read by.
    "stages.golds", "stages.monte_carlo", "stages.judge.consensus",
    # The testbed's exact step truth, and published benchmarks as `curate ingest` reads them, for measuring.
    "sources",
}  # fmt: skip
MAX_MODULES = 15
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
    assert not any(name.split(".")[0] == "polars" for name in imports(path)) or name_of(path) == "curate.runtime.frames"


def targets(path: Path) -> set[str]:
    """Modules of this project that a module imports, however late."""
    known = {name_of(each) for each in MODULES}
    named = {item for item in imports(path) if item.split(".")[0] in LAYERS}
    return {item if item in known else item.rpartition(".")[0] for item in named} - {name_of(path)}


def room(name: str) -> str:
    return name.partition(".")[2].partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_the_layers(path):
    name = name_of(path)
    package = name.split(".")[0]
    order = LAYERS[package]
    for target in sorted(targets(path)):
        if target in PUBLIC:
            continue
        if not target.startswith(f"{package}."):
            assert package == "prm", f"{name} imports {target}"
            seen = target.removeprefix("curate.")
            assert any(seen == ok or seen.startswith(f"{ok}.") for ok in PRM_SEES), f"{name} imports {target}"
        elif name not in PUBLIC and room(target) != room(name):
            assert order.index(room(target)) < order.index(room(name)), f"{name} imports {target}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_what_its_room_may(path):
    name = name_of(path)
    packages = {item.split(".")[0] for item in imports(path)}
    if room(name) in ("errors", "seeds") or name == "curate.tables.schema":
        assert packages - STANDARD <= {"pyarrow", "__future__"}
    if "duckdb" in packages:
        # The API names a connection's type.
        assert name in ("curate.tables.catalog", "curate.api")
    if "vllm" in packages:
        assert name.startswith("curate.engines.vllm")
    stage, of_stages = stage_of(name), {target for target in targets(path) if stage_of(target)}
    if stage and name != SHARD:
        assert not {target for target in of_stages if stage_of(target) != stage}
    # What works is imported by what is above the stages only.
    assert not stage or not of_stages & WORKERS - ALLOWED.get(name, set())


# The stage that puts the others' tables together: it asks for the rules by which labels and opinions are read.
SHARD = "curate.stages.shard"
WORKERS = {
    "curate.stages.ingest.ingest", "curate.stages.ingest.imports", "curate.stages.rollout",
    "curate.stages.label.label", "curate.stages.judge.judge", SHARD,
}  # fmt: skip
# A pilot of labelling is labelling of a few prefixes.
ALLOWED = {"curate.stages.label.trial": {"curate.stages.label.label"}}


def stage_of(name: str) -> str:
    """The stage of `curate` that a module belongs to, "" for none."""
    parts = name.split(".")
    return parts[2] if parts[:2] == ["curate", "stages"] and len(parts) > 2 and parts[2] in STAGES else ""


def test_no_modules_import_one_another():
    graph = {name_of(path): targets(path) for path in MODULES}
    assert not list(circles(graph))


def circles(graph):
    """Each group of modules that import one another, by whatever way, smallest first."""
    reach = {name: {name} for name in graph}
    for name in graph:
        open_ends = [name]
        while open_ends:
            for target in graph.get(open_ends.pop(), ()):
                if target not in reach[name]:
                    reach[name].add(target)
                    open_ends.append(target)
    for name in sorted(graph):
        group = {other for other in reach[name] if name in reach.get(other, ())}
        if len(group) > 1 and name == min(group):
            yield sorted(group)


def test_a_circle_is_found():
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == [["a", "b", "c"]]


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_folder_is_a_room_and_not_a_hall(folder):
    assert len(list(folder.glob("*.py"))) <= MAX_MODULES
    assert (folder / "__init__.py").exists()


def docstrings(tree: ast.Module):
    """Every docstring, of modules, classes, functions and fields."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for each in body if isinstance(body, list) else ():
            if (
                isinstance(each, ast.Expr)
                and isinstance(each.value, ast.Constant)
                and isinstance(each.value.value, str)
            ):
                yield each.value.value


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_docstring_stands_alone(path):
    """An IDE shows it without the one before it, and without the signature's other half."""
    for text in docstrings(parsed(path)):
        assert text.split()[:2] != ["The", "same"], text
        assert text.split()[0] not in ("Of", "As", "Its", "It"), text


def test_a_class_name_has_one_meaning():
    classes = [
        node.name.lstrip("_") for path in MODULES for node in ast.walk(parsed(path)) if isinstance(node, ast.ClassDef)
    ]
    assert sorted(name for name in set(classes) if classes.count(name) > 1) == []


# Words that were ours alone, and the field's word in their place; or a word that meant two things.
WORDS = {
    "picture": "image", "pictures": "images", "owed": "pending", "most": "max", "team": "process_group",
    "keeper": "supervisor", "spend": "token_usage", "intake": "exclusions", "forwards": "inference",
    "chance_low": "null_band_low", "chance_high": "null_band_high", "other_pictures": "other_images",
}  # fmt: skip


def identifiers(tree: ast.Module) -> set[str]:
    """Every name that a module gives or uses, classes in small letters."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return {name.lstrip("_").lower() for name in found}


def test_words_that_were_ours_alone_are_gone():
    for path in MODULES:
        used = identifiers(parsed(path)) | {part.lower() for part in path.relative_to(ROOT).with_suffix("").parts}
        assert not (wrong := sorted(used & WORDS.keys())), f"{name_of(path)}: {wrong[0]} is {WORDS[wrong[0]]}"
    columns = {column for table in TABLES.values() for column in table.schema.names}
    shown = {column.name for column in COLUMNS}
    help_texts = set(re.findall(r"[a-z_]+", (ROOT / "docs" / "cli.md").read_text()))
    assert not (columns | shown) & WORDS.keys()
    assert not help_texts & (WORDS.keys() - {"most", "spend"})


# What holds rows, by the names that the code gives them.
ROWS = {
    "row", "rollout", "problem", "label", "example", "completion", "vote", "judgement", "update", "score", "reject",
    "image", "chain", "sample", "drop",
}  # fmt: skip
# A tenth of what there was when rows were dictionaries.
MAX_ACCESSES = 98


def test_rows_are_objects():
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
        and isinstance(node.value, ast.Name)
        and node.value.id in ROWS
        and name_of(path) != "curate.tables.catalog"
    ]
    assert len(found) <= MAX_ACCESSES, found


def test_modules_and_functions_are_small():
    lines = sorted(len(path.read_text().splitlines()) for path in MODULES if path.name != "__init__.py")
    assert lines[len(lines) // 2] <= 150
    nodes = [node for path in MODULES for node in ast.walk(parsed(path))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = sorted(node.end_lineno - node.lineno + 1 for node in functions)
    assert sizes[int(0.99 * len(sizes))] <= 45


@pytest.mark.parametrize("module", ["curate", "prm", "curate.cli.app", "prm.cli.app", "prm.stages", "curate.pipeline"])
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


@pytest.mark.parametrize("app", ["curate.cli.app", "prm.cli.app"])
def test_the_help_of_an_option_stands_alone(app):
    from importlib import import_module

    import typer

    group = typer.main.get_command(import_module(app).app)
    # A group of commands within the group has no parameters of its own worth a look.
    helps = [
        (name, p.name, p.help) for name, each in group.commands.items() for p in each.params if getattr(p, "help", 0)
    ]
    assert len(helps) > 40
    for command, option, text in helps:
        assert text.split()[0] not in ("Of", "As", "But", "Its"), f"{command} {option}: {text}"
