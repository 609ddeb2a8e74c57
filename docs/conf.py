"""Settings of the documentation site: `make docs` builds it into docs/_build/html, with warnings as errors."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

import lmjax

project = "lmjax"
author = "The lmjax authors"
copyright = author
version = release = lmjax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "formula_blocks",
    "repository_links",
    "reference_pages",
]
exclude_patterns = ["_build", "_extensions"]
default_role = "code"
highlight_language = "none"
nitpicky = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# The notebook's cells run when the site is built; one that raises ends the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = "lmjax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": False,
    "navbar_persistent": [],  # the bar above the page would hold a second search field only
}
