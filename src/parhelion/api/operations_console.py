"""The routes of the console and of one node, as data."""

from __future__ import annotations

from parhelion.api import console, console_shapes, setup_shapes
from parhelion.api.operation import PEER, Operation, Parameter
from parhelion.coordinator import ConsoleView

CONSOLE: tuple[Operation, ...] = (
    Operation(
        "get",
        "/v1/nodes/{peer}",
        "nodes.one",
        "One node with what became of it; to the admin key also its answers and earnings.",
        console_shapes.NodeBody,
        parameters=(PEER,),
        security="owner",
        errors=(404,),
    ),
    Operation("get", "/v1/console", "console", "The pool at this moment.", ConsoleView),
    Operation(
        "get",
        "/v1/console/stream",
        "console.stream",
        "The pool once a second, as server-sent events; each data line is a ConsoleView.",
        also=("text/event-stream",),
    ),
    Operation(
        "get",
        "/v1/console/history",
        "console.history",
        "Points of the last hour, for a chart.",
        console_shapes.ConsoleHistory,
        parameters=(
            Parameter(
                "minutes",
                "query",
                "How far back.",
                {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": console.MINUTES_LIMIT,
                    "default": console.MINUTES_LIMIT,
                },
            ),
        ),
    ),
    Operation(
        "get",
        "/v1/console/money",
        "console.money",
        "The books in total, and payments claimed against landed.",
        console_shapes.MoneyBody,
        security="admin",
    ),
    Operation(
        "get",
        "/v1/setup",
        "setup",
        "What this pool is set up to be, and what it lacks; to the admin key also how to join it.",
        setup_shapes.SetupBody,
        security="owner",
    ),
    Operation(
        "put",
        "/v1/setup",
        "setup.change",
        "Choose the default model, how many nodes it waits for, whether it is free, and prices.",
        setup_shapes.SetupBody,
        setup_shapes.NewSetup,
        security="admin",
        errors=(404, 409),
    ),
)
