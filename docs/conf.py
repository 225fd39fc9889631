"""The site: `make docs`."""

import xrisk_ext

project = "xrisk_ext"
author = "the xrisk_ext authors"
release = version = xrisk_ext.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"xrisk_ext {release}"
html_show_copyright = False
copybutton_exclude = ".linenos, .gp, .go"  # prompts and output stay behind

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Shapes, dtypes and defaults are in the docstrings; spelled-out types would hide the signatures.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_param = False  # one entry for "surrogate, margin, scale", not three
napoleon_use_rtype = False

nitpicky = True
# Building takes no network, so no inventory of other projects: their names stay plain text.
nitpick_ignore_regex = [(r"py:.*", r"(torch|nn|Tensor|Module)(\..*)?")]
