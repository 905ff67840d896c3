"""How Sphinx renders these pages: plain Markdown, one theme, nothing from the network."""

from __future__ import annotations

import apikley_async

project = "apikley-async"
author = "apikley_async contributors"
copyright = "2026, apikley_async contributors"
release = version = apikley_async.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
# `Client` in a docstring is a link where such a name exists, and code where there is none.
default_role = "py:obj"
exclude_patterns = ["_build"]
nitpicky = False  # without intersphinx no name of another library has a page to point to

# Pages link to each other's headings, down to the third level.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
# Examples say what they are: ```python is run by the tests, ```shell is read by people.
highlight_language = "python"

autoclass_content = "class"
autodoc_class_signature = "mixed"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_numpy_docstring = False

# `>>>` in the pages and docstrings that ask for it (```{doctest}), and nowhere else.
doctest_test_doctest_blocks = ""
doctest_global_setup = "import apikley_async"

html_theme = "furo"
html_title = f"apikley-async {release}"
html_copy_source = False
html_show_sourcelink = False
html_extra_path = ["llms.txt"]
html_static_path = ["static"]
html_css_files = ["pages.css"]
