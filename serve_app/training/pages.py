"""HTML pages from templates: one self-contained file each, without links; plots are SVG in the page.

Owns the template engine and how a page gets onto disk. What a page says is in templates/*.html. jinja2 and matplotlib are not
needed for serving; without them there is no page, and the user is told so.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from serve_app.atomic_files import replacing

__all__ = ["can_write_pages", "write_page"]

_PACKAGES = ("jinja2", "matplotlib")


def can_write_pages() -> bool:
    """Whether the packages that pages need are installed."""
    return all(importlib.util.find_spec(package) is not None for package in _PACKAGES)


def write_page(path: Path, template: str, **content: object) -> None:
    """Renders a template (the name of a file in templates/) and writes it, whole or not at all."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("serve_app.training"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = templates.get_template(template).render(content)
    with replacing(path) as file:
        file.write(page)
