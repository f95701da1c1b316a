"""Tables and figures in one file that can be passed on."""

import base64
import html
import re
from pathlib import Path

import markdown

from slu_kd_lobes.experiments.figures import FIGURES
from slu_kd_lobes.utils.files import write_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem;
       max-width: 75rem; color: #222; background: #fff }
h1, h2, h3 { line-height: 1.2 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 0.85rem; white-space: nowrap }
th, td { border-bottom: 1px solid #ddd; padding: 0.3rem 0.6rem }
tr:hover { background: #f3f6fb }
img { max-width: 100%; height: auto }
"""


def write_html(folder, matrices):
    """Tables and figures of matrices in one file, readable on a phone.

    Arguments
    ---------
    folder : str or Path
        With ``tables`` and ``figures``; takes ``report.html``.
    matrices : list of Matrix

    Returns
    -------
    Path
        The file.
    """
    folder, parts = Path(folder), []
    for matrix in matrices:
        table = folder / "tables" / f"{matrix.name}.md"
        # Links to configurations mean nothing in a file that is passed on.
        text = re.sub(
            r"\[([^]]*)\]\([^)]*\.yaml\)", r"\1", table.read_text("utf-8")
        )
        text = markdown.markdown(text, extensions=["tables"])
        text = text.replace("<table>", '<div class="wide"><table>')
        parts.append(text.replace("</table>", "</table></div>"))
        for name, (_, caption) in FIGURES.items():
            figure = folder / "figures" / f"{matrix.name}_{name}.png"
            if figure.is_file():
                content = base64.b64encode(figure.read_bytes()).decode()
                parts.append(
                    f'<p><img src="data:image/png;base64,{content}" alt='
                    f'"{html.escape(f"{matrix.title}: {caption}")}"></p>'
                )
    body = "\n".join(parts)
    path = folder / "report.html"
    write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Results</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>\n",
    )
    return path
