"""Self-contained HTML pages for reports: no scripts, nothing from the network, light and dark."""

from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #5b6675; --paper: #fff; --card: #f5f7fa; --line: #d5dbe3;
  --champion: #2f6db3; --challenger: #b3560f; --good: #1a7f43; --bad: #b3261e; --wait: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --dim: #9aa5b4; --paper: #14181e; --card: #1d232b;
  --line: #333c48; --champion: #7fb2ec; --challenger: #f0a35e; --good: #6fce93; --bad: #ff8a80; --wait: #e5c062; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 72rem; padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
th { color: var(--dim); font-weight: 600; } p.dim, figcaption { color: var(--dim); }
.pass { color: var(--good); } .fail { color: var(--bad); } .wait, .inconclusive { color: var(--wait); }
.banner { background: var(--card); border-left: .3rem solid currentColor; padding: .7rem 1rem; }
.banner p { color: var(--ink); margin: .2rem 0; } figure { margin: 0; } svg { max-width: 100%; height: auto; }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; } svg .dim { fill: var(--dim); }
svg .axis { stroke: var(--line); } svg .champion { stroke: var(--champion); fill: var(--champion); }
svg .challenger { stroke: var(--challenger); fill: var(--challenger); }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole document.

    Args:
        title: Plain text.
        body: HTML fragments that are escaped already, as the functions of this module make them.
    """
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1>\n{chr(10).join(body)}\n</body></html>\n"
    )


def heading(text: str) -> str:
    """A section's heading, of plain text."""
    return f"<h2>{escape(text)}</h2>"


def note(text: str) -> str:
    """A paragraph in the background, of plain text."""
    return f'<p class="dim">{escape(text)}</p>'


def link(address: str, text: str) -> str:
    """A paragraph that leads to a file beside the page; the address is one that we made."""
    return f'<p><a href="{escape(address)}">{escape(text)}</a></p>'


def banner(state: str, headline: str, text: str) -> str:
    """The result, first thing on the page.

    Args:
        state: "pass", "fail", "wait" or "inconclusive": its colour.
        headline: Plain text.
        text: Plain text.
    """
    return f'<div class="banner {escape(state)}"><strong>{escape(headline)}</strong><p>{escape(text)}</p></div>'


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of plain values; every cell is escaped."""
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    lines = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
