"""The house rules that the design states, held by reading the source."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from mien.params import Params

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
STAGES = sorted(path.stem for path in (SOURCE / "mien/stages").glob("[!_]*.py"))
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SHARED = {"seed", "expressions", "model", "augmentation", "compute", "promotion", "monitoring"}
FOR_ALL = {"params", "yaml_files", "errors", "files", "ports", "progress"}
MAY_IMPORT = {
    "data": set(),
    "model": set(),
    "learning": {"model", "data"},
    "evaluation": {"model", "data"},
    "packaging": {"model", "data", "learning", "evaluation"},
    "stages": {"model", "data", "learning", "evaluation", "packaging"},
    "serving": {"model", "data", "packaging"},
    "guard": set(),
    "lock": set(),
    "pipeline": {"guard", "lock"},
    "results": {"pipeline", "packaging"},
    "workspace": {"data", "lock"},
    "promotion": {"model", "data", "evaluation", "packaging"},
    "monitoring": {"model", "data", "packaging"},
    "__init__": {"serving"},
    "__main__": {"cli"},
    "cli": {"pipeline", "results", "serving", "workspace", "promotion"},
}
"""What each part of the package may import besides itself and what is for all."""


@cache
def module_file(module: str) -> Path | None:
    """The file of a module of ours, None for a name that is no module."""
    path = SOURCE.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def imports(file: Path) -> frozenset[str]:
    """The modules that a file imports anywhere in it, those for type checking only left out."""
    found: set[str] = set()

    class Imports(ast.NodeVisitor):
        def visit_If(self, node: ast.If) -> None:
            if ast.unparse(node.test) not in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                self.generic_visit(node)

        def visit_Import(self, node: ast.Import) -> None:
            found.update(alias.name for alias in node.names)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            assert node.level == 0, f"{file}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if module_file(name) else str(node.module))

    Imports().visit(ast.parse(file.read_text(encoding="utf-8")))
    return frozenset(found)


def ours(file: Path) -> set[Path]:
    return {
        path
        for name in imports(file)
        if name.split(".")[0] == "mien" and (path := module_file(name))
    }


def reached(file: Path) -> set[Path]:
    """A file and all of ours that it imports, directly or not."""
    found, waiting = set(), {file}
    while waiting:
        found |= waiting
        waiting = set().union(*map(ours, waiting)) - found
    return found


def part(file: Path) -> str:
    """The first name under ``mien``: its sub-package or module."""
    return file.relative_to(SOURCE / "mien").with_suffix("").parts[0]


def python_files() -> list[Path]:
    return sorted((SOURCE / "mien").rglob("*.py"))


@pytest.mark.parametrize("file", python_files(), ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_run_one_way(file):
    own = part(file)
    allowed = MAY_IMPORT.get(own, set()) | FOR_ALL | {own, "__init__"}
    wrong = {part(path) for path in ours(file)} - allowed
    assert not wrong, f"{own} may not import {', '.join(sorted(wrong))}"


def test_nothing_imports_the_flows():
    for file in python_files():
        assert not any(name.split(".")[0] == "flows" for name in imports(file)), file


def test_flows_hold_no_learning_code():
    known = {"pipeline", "results", "workspace", "lock", "promotion", "monitoring", "serving"}
    allowed = FOR_ALL | known
    for file in (ROOT / "flows").glob("*.py"):
        assert {part(path) for path in ours(file)} <= allowed, file


def test_a_stage_has_one_name():
    assert sorted(PIPELINE) == STAGES
    sections = {field.alias or name for name, field in Params.model_fields.items()}
    assert sections - SHARED == set(STAGES)


def stage_file(stage: str) -> Path:
    return SOURCE / "mien/stages" / f"{stage}.py"


def main_of(stage: str) -> ast.FunctionDef:
    tree = ast.parse(stage_file(stage).read_text(encoding="utf-8"))
    (main,) = (
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"
    )
    return main


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_gives_a_stage_the_paths_that_it_takes(stage):
    words = PIPELINE[stage]["cmd"].split()
    assert words[:3] == ["python", "-m", f"mien.stages.{stage}"]
    given = [word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")]
    assert sorted(given) == sorted(argument.arg for argument in main_of(stage).args.kwonlyargs)


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_knows_the_modules_that_a_stage_uses(stage):
    """And no other: an edit must run again exactly the stages that it may change."""
    deps = [ROOT / dep for dep in PIPELINE[stage]["deps"] if dep.startswith("src/")]
    exempt = {*FOR_ALL, "__init__"}
    used = {file for file in reached(stage_file(stage)) if part(file) not in exempt}
    used.discard(SOURCE / "mien/stages/_run.py")
    unknown = {file for file in used if not any(file.is_relative_to(dep) for dep in deps)}
    assert not unknown, f"add to deps of {stage} in dvc.yaml: {named(unknown)}"
    code = {path for dep in deps for path in ([dep] if dep.is_file() else dep.rglob("*.py"))}
    unused = {path for path in code - used if path.suffix == ".py" and path.name != "__init__.py"}
    assert not unused, f"take out of deps of {stage} in dvc.yaml: {named(unused)}"


def named(paths: set[Path]) -> str:
    return ", ".join(sorted(str(path.relative_to(ROOT)) for path in paths))


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_knows_the_settings_that_a_stage_reads(stage):
    """And no other, but for those that the package's card tells of."""
    tree = ast.parse(stage_file(stage).read_text(encoding="utf-8"))
    read = {
        node.attr.rstrip("_")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "params"
    }
    settings = {field.alias or name for name, field in Params.model_fields.items()}
    if stage == "evaluate":  # the report shows all but what no figure rests on
        read |= settings - {"compute", "package", "promotion", "monitoring"}
    known = {name.split(".")[0] for name in PIPELINE[stage]["params"]}
    # `compute` says where it runs, which makes nothing out of date.
    assert (read & settings) - {"compute"} <= known
    assert known <= read or stage == "package"


def test_only_the_frame_opens_the_settings_file():
    frame = {"params/__init__.py", "workspace.py", "stages/_run.py"}
    frame |= {"promotion/commands.py", "promotion/renewals.py"}
    for file in python_files():
        if str(file.relative_to(SOURCE / "mien")) in frame:
            continue
        constants = {
            node.value
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant)
        }
        assert "params.yaml" not in constants, file
        assert "mien.params.load_params" not in imports(file), file
        assert "load_params" not in file.read_text(encoding="utf-8"), file


HEAVY = {"torch", "sklearn", "great_expectations", "evidently", "dvc", "matplotlib", "onnx"}
MORE = {"bentoml", "prefect", "cv2", "pandas", "scipy"}


@pytest.mark.parametrize(
    ("modules", "without"),
    [
        ("mien.cli, mien.workspace, mien.pipeline, mien.results, mien.params", HEAVY | MORE),
        ("mien.stages.prepare, mien.stages.validate, mien.stages.relabel", HEAVY),
        ("mien.serving.service, mien.promotion.commands", HEAVY),
        ("flows.monitoring, flows.retraining", HEAVY),
        ("mien.stages.pretrain, mien.stages.finetune", HEAVY - {"torch", "matplotlib"}),
    ],
)
def test_nothing_starts_with_what_it_may_not_need(modules, without):
    """What takes seconds to import is imported by the function or the stage that needs it."""
    code = f"import sys, {modules}; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    assert without & set(loaded) == set()
