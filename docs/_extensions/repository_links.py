"""Links of the pages to files of the repository that lie outside of docs/.

The pages are read in the repository as well, where such links are good. On the site a link to a file that a page of
the site includes leads to that page, and a link to any other file or folder becomes its text. A link to something that
does not exist stays a warning, and so an error.
"""

import pathlib
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "SECURITY.md": "security",
    "launch/README.md": "launch",
}
"""Files outside of docs/, and the pages that include them."""


class RepositoryLinks(SphinxPostTransform):
    """Resolves the links before MyST looks for them among the pages."""

    default_priority = 8

    def run(self, **kwargs: Any) -> None:
        """Replaces each link that leads out of docs/."""
        for node in list(self.document.findall(addnodes.pending_xref)):
            place = self._place(node) if node["reftype"] == "myst" else None
            if place is None:
                continue
            page = PAGES.get(place.relative_to(ROOT).as_posix())
            if page is None:
                node.replace_self(nodes.inline("", "", *node[0].children))
                continue
            uri = self.app.builder.get_relative_uri(self.env.docname, page)
            node.replace_self(nodes.reference("", "", *node.children, refuri=uri, internal=True))

    def _is_page(self, place: pathlib.Path) -> bool:
        """Whether the site has a page of its own for a file."""
        return self.env.path2doc(place) in self.env.found_docs

    def _place(self, node: addnodes.pending_xref) -> pathlib.Path | None:
        """The file or folder outside of docs/ that a link leads to; None where there is none."""
        target = node["reftarget"].split("#")[0]
        # A page that includes a file of the root has the links of that file, which begin at the root.
        for folder in (self.env.doc2path(self.env.docname).parent, ROOT):
            # MyST has taken the suffix off a link to a page.
            for name in (target, f"{target}.md"):
                place = (folder / name).resolve()
                if target and place.exists() and place.is_relative_to(ROOT) and not self._is_page(place):
                    return place
        return None


def setup(app: Sphinx) -> dict:
    """Registers the transform."""
    app.add_post_transform(RepositoryLinks)
    return {"parallel_read_safe": True}
