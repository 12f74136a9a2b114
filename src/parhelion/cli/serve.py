"""`parhelion serve`: this one machine as a paid provider."""

from __future__ import annotations

from parhelion.cli.options import OPTIONS, Options
from parhelion.cli.up import SERVING, Serving, start

SERVE_PORT = 4001
SERVE_WEB_PORT = 4002
"""Its own ports, so that a provider runs beside an `up` with another data folder."""


def serve(*, serving: Serving = SERVING, options: Options = OPTIONS) -> int:
    """Offer this machine as a paid provider: coordinator, node and gate on port 4001."""
    # 0 is a choice, too: any free one.
    port = SERVE_PORT if options.api_port is None else options.api_port
    config = serving.settings(options, port=port)
    if options.web_port is None:
        import msgspec

        web = msgspec.structs.replace(config.web, port=SERVE_WEB_PORT)
        config = msgspec.structs.replace(config, web=web)
    return start(options, config, serving.model, need=1, free=False, local_node=True)
