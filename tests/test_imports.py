"""The import rule: data imports nothing of ours, eval only data, and neither needs a model library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {"data": {"data"}, "eval": {"data", "eval"}, "pipeline": {"data", "eval", "pipeline"}}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import hides what it imports"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_data_flows_one_way(package):
    files = list((ROOT / package).glob("*.py"))
    assert files
    for path in files:
        assert imported(path) & ALLOWED.keys() <= ALLOWED[package], path


MODULES = [f"{name}.{path.stem}" for name in ("data", "eval") for path in sorted((ROOT / name).glob("[a-z]*.py"))]


@pytest.mark.parametrize("module", [*MODULES, "pipeline.__main__"])
def test_no_model_library_is_loaded_before_it_is_needed(module):
    code = f"import {module}, sys; print('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
