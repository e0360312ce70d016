"""HTML writer of the reports: one file without script or network, in both color schemes."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.reports.charts import chart_svg
from recipes.reports.document import Document, as_text

if TYPE_CHECKING:
    from jinja2 import Template


def write_html(document: Document) -> str:
    """Return ``document`` as an HTML page."""
    return _template().render(document=document)


@cache
def _template() -> "Template":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=_without_control_characters,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = chart_svg
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment.get_template("page.html.j2")


def _without_control_characters(value: Any) -> Any:
    # Markup, which is a str too, has been through here
    return as_text(value) if type(value) is str else value
