"""Every Python block of the documentation runs, and every `xr.` name in its text exists."""

import re
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"\b(?:xr|xrisk_ext)((?:\.\w+)+)")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def readme_names() -> dict[str, Any]:
    """What the README's example leaves to the reader."""
    return {"loader": [(torch.rand(8, 20), torch.arange(8) % 4 == 0, torch.arange(8))]}


@each_page
def test_blocks_run_in_order(page: Path, restore_threads: None) -> None:
    text = page.read_text()
    names = readme_names() if page.stem == "README" else {}
    for block in BLOCK.finditer(text):
        lines_before = text[: block.start(1)].count("\n")  # tracebacks then name the page's line
        exec(compile("\n" * lines_before + block[1], str(page), "exec"), names)


@each_page
def test_names_exist(page: Path) -> None:
    for name in NAME.findall(page.read_text()):
        resolve_name(f"xrisk_ext{name}")


def test_blocks_are_found() -> None:
    blocks = {page.stem: len(BLOCK.findall(page.read_text())) for page in PAGES}
    guides = {"start", "sample_ids", "losses", "gamma", "surrogates", "state", "algorithms"}
    assert all(blocks[guide] >= 2 for guide in guides)
    for page in PAGES:  # no block is written in a way that the pattern overlooks
        assert blocks[page.stem] == len(re.findall(r"python\n", page.read_text())), page
