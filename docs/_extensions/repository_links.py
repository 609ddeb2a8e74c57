"""Links of the pages to files of the repository that lie outside of docs/.

The pages are read in the repository as well, where such links are good. On the site a link to a file that a page of
the site includes leads to that page, and a link to any other file or folder becomes its text. A link to something that
does not exist stays a warning, and so an error.
"""

import pathlib

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "launch/README.md": "launch",
}
"""Files outside of docs/, and the pages that include them."""


def resolve(app: Sphinx, env: BuildEnvironment, node: nodes.Element, content: nodes.Element) -> nodes.Element | None:
    """What stands for a link that Sphinx could not resolve; None leaves it to the next handler."""
    page = env.doc2path(node.get("refdoc", env.docname))
    target = node.get("reftarget", "").split("#")[0]
    if not target:
        return None
    # A page that includes a file of the root has the links of that file, which begin at the root.
    for folder in (pathlib.Path(page).parent, ROOT):
        place = (folder / target).resolve()
        if place.exists() and place.is_relative_to(ROOT):
            name = place.relative_to(ROOT).as_posix()
            if name not in PAGES:
                return nodes.inline("", "", *content.children)
            uri = app.builder.get_relative_uri(node.get("refdoc", env.docname), PAGES[name])
            return nodes.reference("", "", *content.children, refuri=uri, internal=True)
    return None


def setup(app: Sphinx) -> dict:
    """Registers the handler."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
