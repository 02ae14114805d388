"""HTTP to this machine's own servers: never through a proxy of the environment."""

from __future__ import annotations

import urllib.request
from http.client import HTTPResponse
from typing import cast

#: Without ``no_proxy`` the environment names its proxy for loopback addresses too, which no proxy can reach.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def open_url(url: str, timeout: float) -> HTTPResponse:
    """Return the response of an ``http://`` URL, asked for directly; close it, or use it as a context manager.

    Raises:
        OSError: no answer, or an HTTP error status (``urllib.error.HTTPError``).
    """
    return cast(HTTPResponse, _OPENER.open(url, timeout=timeout))
