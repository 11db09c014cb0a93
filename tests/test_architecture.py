"""Who may import whom: srpo is a library, ZenML its guest; mathematics knows nothing of the machinery around it."""

import ast
import re
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "open_clip": "open-clip-torch"}


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def offenders(paths: list[Path], forbidden: set[str]) -> list[str]:
    pattern = re.compile(rf"({'|'.join(map(re.escape, forbidden))})(\.|$)")
    return [f"{path.relative_to(ROOT)}: {name}" for path in paths for name in imports(path) if pattern.match(name)]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("srpo", {"zenml", "steps", "pipelines", "run_pipeline"}),
        ("steps", {"pipelines", "run_pipeline"}),
        ("pipelines", {"run_pipeline"}),
    ],
)
def test_imports_point_from_the_command_line_down_to_the_library(package: str, forbidden: set[str]) -> None:
    assert files(package)
    assert offenders(files(package), forbidden) == []


def test_mathematics_imports_torch_and_nothing_of_the_machinery() -> None:
    for name in ("flow", "align"):
        tops = {module.split(".")[0] for module in imports(ROOT / "srpo" / f"{name}.py")} - set(sys.stdlib_module_names)
        assert tops <= {"torch", "jaxtyping", "srpo"}
    assert not [name for name in imports(ROOT / "srpo" / "flow.py") if name.startswith("srpo")]


def test_models_rewards_and_rollouts_do_not_know_who_trains_or_evaluates_them() -> None:
    lower = [ROOT / "srpo" / f"{name}.py" for name in ("rollout", "preference")]
    above = {f"srpo.{name}" for name in ("train", "trainer", "launch", "evaluation", "registry", "tracking", "plan")}
    assert offenders([*lower, *files("srpo/prompts"), *files("srpo/models"), *files("srpo/rewards")], above) == []


def test_no_room_of_the_library_needs_one_that_needs_it() -> None:
    """A module or package directly below srpo imports none that imports it, however far around; lazily neither."""
    needs: dict[str, set[str]] = {}
    for path in files("srpo"):
        room = path.relative_to(ROOT / "srpo").with_suffix("").parts[0]
        needed = {name.split(".")[1] for name in imports(path) if name.startswith("srpo.")}
        needs.setdefault(room, set()).update(needed - {room})
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as cycle:
        pytest.fail(" -> ".join(cycle.args[1]))


def loads(module: str) -> set[str]:
    """All that is imported with a module, seen from its own file alone: with its packages, outside of functions."""
    parts = module.split(".")
    found = {".".join(parts[: end + 1]) for end in range(len(parts))}
    path = ROOT.joinpath(*parts)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    nodes = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize(
    "module",
    [
        *(f"pipelines.{name}" for name in ("status", "reports", "collect")),
        *(f"srpo.{name}" for name in ("registry", "reference", "evaluation.comparison", "evaluation.study", "export")),
        "steps.register",
    ],
)
def test_what_needs_no_model_does_not_wait_for_its_libraries(module: str) -> None:
    """They take ten seconds to import on a slow machine, before `status` could say anything."""
    seen, ahead = set[str](), {module}
    while ahead:
        seen |= ahead
        ahead = set().union(*map(loads, ahead)) - seen
    assert "torch" in seen
    assert not seen & {"diffusers", "transformers", "open_clip", "peft", "torchvision"}


def names_of(package: str, node: ast.stmt) -> set[str]:
    """Names that a statement of a package's `__init__` gives it, those of its own modules apart."""
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names if node.module != package}
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
    return set()


def test_no_package_has_a_name_that_hides_a_module_of_its_own() -> None:
    hidden = []
    for path in (path for top in ("srpo", "pipelines", "steps") for path in files(top) if path.name == "__init__.py"):
        package = ".".join(path.parent.relative_to(ROOT).parts)
        names = set().union(*(names_of(package, node) for node in ast.parse(path.read_text(encoding="utf-8")).body))
        hidden += [f"{package}.{name}" for name in names & {module.stem for module in path.parent.iterdir()}]
    assert hidden == []


def test_the_tree_names_every_package_and_no_module_that_is_gone() -> None:
    tree = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## The tree")[2].partition("```\n\n")[0]
    folders, modules = set(re.findall(r"(\w+)/", tree)), set(re.findall(r"\w+\.py", tree))
    assert {path.parent.name for path in (ROOT / "srpo").glob("*/__init__.py")} <= folders
    assert modules <= {path.name for top in (".", "srpo", "pipelines") for path in (ROOT / top).glob("*.py")}


def test_every_imported_package_is_declared() -> None:
    """A fresh environment holds what the code imports, not what happens to come along with it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    declared = {normal(re.split(r"[\[<>=!~; ]", line)[0]) for line in needed}
    own = {"srpo", "steps", "pipelines"}
    tops = {name.split(".")[0] for package in own for path in files(package) for name in imports(path)}
    tops -= own | set(sys.stdlib_module_names)
    assert {normal(DISTRIBUTIONS.get(name, name)) for name in tops} <= declared


def test_every_declared_package_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = sum(project["optional-dependencies"].values(), project["dependencies"])
    pins = {normal(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {normal(re.split(r"[\[<>=!~; ]", line)[0]) for line in lines} <= pins


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
