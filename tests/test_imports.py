"""The import rule: data imports nothing of ours, eval only data, and no command loads torch before it needs it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "data": {"data"},
    "eval": {"data", "eval"},
    "pipeline": {"data", "eval", "pipeline"},
}

# Commands such as `table` and `status` import these; each must start without a model library.
LIGHT = [
    "pipeline.__main__",
    "pipeline.config",
    "pipeline.run",
    "pipeline.run_dir",
    "pipeline.stages",
    "pipeline.stages.run",
]


def list_imports(path: Path) -> set[str]:
    """Return the top packages that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides what it imports"
            names.add((node.module or "").split(".")[0])
    return names


def list_files(package: str) -> list[Path]:
    """Return the Python files of a package and of those inside it."""
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_go_one_way(package):
    files = list_files(package)
    assert files

    for path in files:
        ours = list_imports(path) & (ALLOWED.keys() | {"tests"})
        assert ours <= ALLOWED[package], path


def list_light_modules() -> list[str]:
    """Return all modules of data and eval, and those of the pipeline that every command imports."""
    modules = []
    for package in ("data", "eval"):
        for path in list_files(package):
            parts = path.relative_to(ROOT).with_suffix("").parts
            modules.append(".".join(parts).removesuffix(".__init__"))
    return [*modules, *LIGHT]


def test_no_model_library_is_loaded_before_it_is_needed():
    """One process imports them one after the other, and names the first that loads torch or transformers."""
    code = "\n".join(
        [
            "import importlib, sys",
            f"for module in {list_light_modules()!r}:",
            "    importlib.import_module(module)",
            "    heavy = {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules)",
            "    assert not heavy, f'{module} loads {heavy}'",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
