"""`parhelion serve`: this one machine as a paid provider."""

from __future__ import annotations

from parhelion.cli.options import OPTIONS, Options
from parhelion.cli.up import NO_TLS, Host, Models, Open, Tls, bind, start

SERVE_PORT = 4001
SERVE_WEB_PORT = 4002
"""Its own ports, so that a provider runs beside an `up` with another data folder."""


def serve(
    *,
    model: Models = (),
    host: Host = None,
    open_: Open = False,
    tls: Tls = NO_TLS,
    options: Options = OPTIONS,
) -> int:
    """Offer this machine as a paid provider: coordinator, node and gate on port 4001."""
    config = bind(options, host, open_, tls, port=options.api_port or SERVE_PORT)
    if options.web_port is None:
        import msgspec

        web = msgspec.structs.replace(config.web, port=SERVE_WEB_PORT)
        config = msgspec.structs.replace(config, web=web)
    return start(options, config, model, need=1, free=False, local_node=True)
