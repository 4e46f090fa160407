"""How values look in a notebook."""

from html import escape


def as_html(value: object) -> str:
    """Returns the text of a value for notebooks. The classes of the API have it as `_repr_html_`."""
    return f"<pre>{escape(repr(value))}</pre>"
