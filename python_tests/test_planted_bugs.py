"""The list of `make test-planted`: every bug can still be planted, and has a test that exists."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load_list():
    spec = importlib.util.spec_from_file_location("planted_bugs", ROOT / ".ci/planted_bugs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LIST = load_list()


@pytest.mark.parametrize("bug", LIST.BUGS, ids=lambda bug: bug.what)
def test_text_occurs_once(bug):
    assert (ROOT / bug.path).read_text().count(bug.old) == 1
    assert bug.old != bug.new


def test_names_are_distinct():
    assert len({bug.what for bug in LIST.BUGS}) == len(LIST.BUGS)


def test_tests_exist():
    cmake = (ROOT / "CMakeLists.txt").read_text()
    cpp = re.search(r"set\(tests\n([^)]*)\)", cmake)[1].split()
    cuda = {path.stem for path in (ROOT / "csrc/tests/cuda").glob("test_*.cu")}
    assert {bug.test for bug in LIST.BUGS} <= {*cpp, *cuda}
    assert all((ROOT / path).is_file() for path in LIST.CUDA_SOURCES)
