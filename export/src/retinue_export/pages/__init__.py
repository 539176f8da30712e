"""Pages of HTML that hold all they need: no scripts, no fonts, no links to other files.

What comes from files is hostile: templates escape all values and put a mark in the place of what cannot be seen, and
the pages forbid browsers to load or run anything.
"""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from retinue_export.quantities import metric, percent, printable


def _visible(value: object) -> str:
    """What is put into a page for a value; what a template has made stays as it is."""
    return value if isinstance(value, Markup) else printable(str(value))


_TEMPLATES = Environment(
    loader=PackageLoader("retinue_export", "pages"),
    autoescape=True,
    finalize=_visible,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(metric=metric, percent=percent)


def render(template: str, **values: Any) -> str:
    """Fills in one of the templates beside this file."""
    return _TEMPLATES.get_template(template).render(**values)
