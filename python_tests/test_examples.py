"""Every example runs from end to end, with few steps, and reports what it says it does."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# what the last line, or one of the lines, has to show
REPORTS = {
    "average_precision": r"ADAP \(Adam\): test average precision 0\.\d+",
    "compiled": r"compiled once for 12 values of gamma, test average precision 0\.\d+",
    "compositional_auc": r"alpha \d\.\d+, test AUROC 0\.\d+",
    "contrastive": r"test accuracy of the nearest neighbour 0\.\d+",
    "custom_xrisk": r"test average precision 0\.\d+",
    "full_batch": r"linear, average precision +0\.\d+",
    "mixed_precision": r"torch\.float16: scores were torch\.float32 in the loss",
    "multi_label": r"test mean average precision 0\.\d+",
    "ndcg": r"K-SONG: test NDCG@5 0\.\d+",
    "partial_auc": r"two-way exact: test one-way 0\.\d+, two-way 0\.\d+",
    "resume": r"bit for bit: True",
}
NOT_RUN_HERE = {"common"}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} - NOT_RUN_HERE == set(REPORTS)


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_example(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module(name)
    try:
        # inductor would compile C++ for half a minute
        options = {"backend": "aot_eager"} if name == "compiled" else {}
        torch._dynamo.reset()
        module.main(["--steps", "12"], **options)
    finally:
        for loaded in (name, "common"):
            sys.modules.pop(loaded, None)
    output = capsys.readouterr().out
    assert re.search(REPORTS[name], output), output
    assert "nan" not in output


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_an_example_says_what_it_shows(name: str) -> None:
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text())
    docstring = ast.get_docstring(tree)
    assert docstring
    assert len(docstring.splitlines()[0]) > 30
