"""The house's walls: imports point one way, nothing is imported bare, nothing is unpickled, and the core needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import splitrail

ROOT = Path(splitrail.__file__).parent
ALLOWED = {
    "pipeline": set(),
    "stages": {"pipeline"},
    "bench": {"pipeline", "stages"},
    "models": {"pipeline", "stages"},
    "distill": {"pipeline", "stages", "models", "bench"},
    "launch": {"pipeline", "stages", "models", "distill", "bench"},
}
OUR_FOLDERS = {*ALLOWED, "hostfiles", "bundles"}
HEAVY = {"torch", "transformers", "matplotlib", "pycocotools", "tensorrt", "pycuda", "jtop"}


def sources(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path):
    """(absolute module names, folders of ours reached relatively) of one file, with whether at module level."""
    tree = ast.parse(path.read_text())
    depth = len(path.relative_to(ROOT).parts) - 1
    top_level = set()
    for node in tree.body:
        # What stands under `if TYPE_CHECKING` or inside a function is not run on import.
        top_level.update(id(child) for child in ast.walk(node) if isinstance(node, ast.Import | ast.ImportFrom))
        if isinstance(node, ast.Import | ast.ImportFrom):
            top_level.add(id(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None, id(node) in top_level
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                yield node.module, None, id(node) in top_level
            elif node.level == depth + 1:
                names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
                for name in names:
                    yield None, name, id(node) in top_level


@pytest.mark.parametrize("folder", ALLOWED)
def test_folders_import_only_what_they_may(folder):
    assert sources(folder)
    for path in sources(folder):
        for _, ours, _ in imports(path):
            if ours in OUR_FOLDERS:
                assert ours == folder or ours in ALLOWED[folder], f"{path.relative_to(ROOT)} imports {ours}"


@pytest.mark.parametrize("folder", ALLOWED)
def test_nothing_of_ours_is_imported_bare_or_by_its_full_name(folder):
    for path in sources(folder):
        for absolute, _, _ in imports(path):
            if absolute:
                first = absolute.split(".")[0]
                assert first not in OUR_FOLDERS | {"splitrail"}, f"{path.relative_to(ROOT)} imports {absolute}"


@pytest.mark.parametrize("folder", ["pipeline", "stages", "bench", "launch"])
def test_heavy_libraries_are_imported_only_where_they_are_used(folder):
    for path in sources(folder):
        for absolute, _, at_top in imports(path):
            if absolute and at_top:
                assert absolute.split(".")[0] not in HEAVY, f"{path.relative_to(ROOT)} imports {absolute} on import"


@pytest.mark.parametrize("folder", ["pipeline", "stages"])
def test_pipeline_and_stages_never_import_torch(folder):
    for path in sources(folder):
        assert not [name for name, _, _ in imports(path) if name and name.split(".")[0] == "torch"], path


def test_nothing_is_unpickled():
    for folder in ALLOWED:
        for path in sources(folder):
            text = path.read_text()
            for absolute, _, _ in imports(path):
                assert absolute is None or absolute.split(".")[0] not in ("pickle", "dill", "joblib", "shelve"), path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.keyword) and node.arg in ("weights_only", "allow_pickle"):
                    safe = isinstance(node.value, ast.Constant) and node.value.value is (node.arg == "weights_only")
                    assert safe, f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load"):
                    words = {keyword.arg for keyword in node.keywords}
                    assert words & {"weights_only", "allow_pickle"}, f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in ("send", "recv")
                ):
                    # mpi4py's lower-case calls pickle; sockets and our own channels have other receivers.
                    if path == ROOT / "bench" / "baseline_pickle.py":
                        continue  # the baseline that is measured for exactly this
                    owner = ast.unparse(node.func.value)
                    assert "comm" not in owner.lower(), f"{path.relative_to(ROOT)}: {owner}.{node.func.attr}"


def test_the_baseline_that_pickles_is_only_in_the_bench():
    users = [
        path
        for folder in ALLOWED
        for path in sources(folder)
        if "baseline_pickle" in path.read_text() and path.name != "baseline_pickle.py"
    ]
    assert users == [ROOT / "bench" / "overlap_rank.py"]


def test_the_package_and_a_rank_import_without_torch():
    program = (
        "import sys\n"
        "class Wall:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'onnx', 'transformers', 'matplotlib'):\n"
        "            raise ImportError('the wall: ' + name)\n"
        "sys.meta_path.insert(0, Wall())\n"
        "import splitrail.launch.rank, splitrail.launch.verbs, splitrail.launch.run, splitrail.launch.demo\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_files_stay_short_and_say_what_they_are():
    vague = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "core"}
    for folder in ALLOWED:
        for path in sources(folder):
            assert path.stem not in vague, path
            assert len(path.read_text().splitlines()) <= 400, path
            assert ast.get_docstring(ast.parse(path.read_text())), f"{path.relative_to(ROOT)} has no docstring"
