"""The scripts of the page, and the policy that lets a browser run these and nothing else."""

import base64
import gzip
import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from plotly.offline import get_plotlyjs


class Scripts(NamedTuple):
    """What makes the page interactive.

    Attributes:
        own: the page's script.
        plotly: plotly.js, compressed by gzip, in base64: plain, it alone would be 4.8 MB.
        policy: a Content-Security-Policy. It names both scripts by their hashes, so that a text of
            a run is not executed even where its escaping should fail, and forbids all loading.
    """

    own: str
    plotly: str
    policy: str


@cache
def scripts() -> Scripts:
    """Return the scripts of every page."""
    own = "\n".join(
        files("letgo.report").joinpath(name).read_text(encoding="utf-8")
        for name in ("plots.js", "lists.js")
    )
    plotly = get_plotlyjs()
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
        f"img-src data:; script-src {_hash(own)} {_hash(plotly)}"
    )
    packed = gzip.compress(plotly.encode(), mtime=0)  # no time: equal runs give equal pages
    return Scripts(own, base64.b64encode(packed).decode(), policy)


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
