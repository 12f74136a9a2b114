"""Schemathesis against a real pool: every route but three, every check it has, and no finding.

The pool is the coordinator's own process and its node an echo node's, so that prompts reach an
engine and come back as receipts; only the model's arithmetic is left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from parhelion.identity import NodeKey
from parhelion.testing.processes import Running

HERE = Path(__file__).parent
EXAMPLES = 20
"""For each operation and phase: some 2,000 requests in all, about a minute."""

SEEDED = ("--generation-deterministic",) if os.environ.get("CI") else ()
"""As hypothesis' own tests: by hand it looks for what is new, in CI at what was seen to hold."""

DEADLINE_S = 300

PLENTY = {
    "LIMITS_BURST": 10**6,
    "LIMITS_REQUESTS_PER_MINUTE_KEY": 10**7,
    "LIMITS_REQUESTS_PER_MINUTE_ADDRESS": 10**7,
    "LIMITS_ACCOUNTS_PER_HOUR": 10**6,
    "LIMITS_ACCOUNTS_PER_HOUR_ADDRESS": 10**6,
    "MONEY_FIRST_GRANT_MICRO": 10**14,
}
"""No limit of ours may hold the run back."""

# 422 and 409 are what Idempotency-Keys are for, 403 is a grant of what is worth something; 400, 402
# and 503 would be a refusal of what the schema allows, or a pool that stopped serving.
CONFIG = """
base-url = "{api}"
hooks = "{hooks}"
continue-on-failure = true

[auth.openapi.key]
bearer = "{key}"

[auth.openapi.admin]
bearer = "{admin}"

[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 422]

[[operations]]
include-path = "/v1/backup"
enabled = false

# There are no passkeys at http://127.0.0.1, which every one of their routes says with 400.
[[operations]]
include-path-regex = "passkey"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 403, 404, 409, 422]

[[operations]]
include-path = "/v1/nodes/stream"
enabled = false

[[operations]]
include-path = "/v1/console/stream"
enabled = false
"""


@pytest.mark.slow
@pytest.mark.timeout(DEADLINE_S + 60)
def test_schemathesis_finds_nothing(
    paid: Callable[..., Running], smollm2: Path, tmp_path: Path
) -> None:
    served = paid(**PLENTY)
    admin = (tmp_path / "pool" / "admin.key").read_text().strip()
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(HERE / "schemathesis_hooks.py", run / "hooks.py")
    settings = CONFIG.format(api=served.api, hooks="hooks.py", key=served.key, admin=admin)
    (run / "schemathesis.toml").write_text(settings)
    model = served.call("GET", "/v1/models")[2]["data"][0]
    (node,) = served.call("GET", "/v1/nodes")[2]["data"]
    told = subprocess.run(
        [
            *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
            *("run", f"{served.api}/schema", "-n", str(EXAMPLES), "--no-color"),
            *("--report", "json", "--report-json-path", "report.json"),
            *SEEDED,
        ],
        cwd=run,
        env={
            **os.environ,
            "PYTHONPATH": str(run),
            "TEST_MODEL": model["id"],
            "TEST_DIGEST": model["digest"],
            "TEST_MODEL_FILE": str(smollm2),
            "TEST_NODE_PEER": node["peer"],
            "TEST_OTHER_PEER": NodeKey(b"other" + bytes(27)).peer,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
    )
    lines = [line[:400] for line in told.stdout.splitlines()]
    assert told.returncode == 0, "\n".join(lines[-150:])
    balance = served.call("GET", "/v1/credits/balance")[2]
    assert int(balance.get("available", 10**14)) < 10**14, f"no prompt was billed: {balance}"
    history = served.call("GET", "/v1/credits/history?limit=199")[2]["data"]
    assert sum(entry["kind"] == "charge" for entry in history) > 20, json.dumps(history)[:2000]
