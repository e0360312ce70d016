"""Writer of the reports, as HTML without script or network and as Markdown."""

from pathlib import Path
from typing import Any

from recipes.common.files import write_text
from recipes.reports.charts import chart_svg
from recipes.reports.document import Document, printable

# characters that Markdown, and the HTML inside it, take for markup
MARKUP = {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{mark: f"\\{mark}" for mark in "\\`*[]|#"}}


def write_pages(path: Path, document: Document) -> None:
    """Write ``document`` as ``path`` + ``.md`` and ``.html``."""
    import jinja2

    for suffix, finalize in ((".md", _escape), (".html", _clean)):
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=jinja2.select_autoescape(["html.j2"]),
            finalize=finalize,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(svg=chart_svg, zip=zip)
        text = environment.get_template(f"page{suffix}.j2").render(document=document)
        # names may hold dots, which with_suffix would cut
        write_text(path.with_name(path.name + suffix), text)


def _clean(value: Any) -> Any:
    # Markup, which is a str too, has been through here
    return printable(value) if type(value) is str else value


def _escape(value: Any) -> str:
    """Return ``value`` on one line, for Markdown to show as it is."""
    line = " ".join(printable(str(value)).split())
    return "".join(MARKUP.get(character, character) for character in line)
