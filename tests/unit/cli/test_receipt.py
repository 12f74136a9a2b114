"""Receipt commands: what they print, and the exit code of a receipt that does not hold."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parhelion.cli.receipt import report, signer, story
from parhelion.proof import Check

Run = Callable[..., tuple[int, str, str]]


def test_show_prints_the_receipt_or_the_evidence(parhelion: Run, api: Any) -> None:
    both = {"receipt": {"id": "rcpt_1"}, "evidence": {"receipt": "rcpt_1", "text": "Paris"}}
    api.answers["GET /v1/receipts/rcpt_1"] = (200, {"id": "rcpt_1"})
    api.answers["GET /v1/receipts/rcpt_1?evidence=1"] = (200, both)
    _, out, _ = parhelion("receipt", "show", "rcpt_1", *api.options())
    assert json.loads(out) == {"id": "rcpt_1"}
    _, out, _ = parhelion("receipt", "show", "rcpt_1", "--evidence", *api.options())
    assert json.loads(out) == both["evidence"]


def test_verify_of_something_that_is_no_receipt_fails_and_says_which_check(
    parhelion: Run, tmp_path: Path
) -> None:
    file = tmp_path / "receipt.json"
    file.write_text('{"v": 1, "coordinator": "12D3KooWx"}')
    code, out, err = parhelion("receipt", "verify", str(file))
    assert code == 1
    assert out.startswith("failed     format")
    assert "signed by  12D3KooWx" in out
    assert "does not hold: format" in err
    code, out, _ = parhelion("receipt", "verify", str(file), "--json")
    assert code == 1
    assert json.loads(out)["valid"] is False
    assert json.loads(out)["checks"][0]["state"] == "failed"


def test_verify_reads_standard_input(parhelion: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"coordinator": "12D3KooWx"}')))
    code, out, _ = parhelion("receipt", "verify", "-")
    assert code == 1
    assert "signed by  12D3KooWx" in out


def test_any_id_of_a_request_may_be_asked_for(parhelion: Run, api: Any) -> None:
    api.answers["GET /v1/receipts/chatcmpl-7"] = (200, {"id": "rcpt_7"})
    assert parhelion("receipt", "show", "chatcmpl-7", *api.options())[:2] == (
        0,
        '{"id": "rcpt_7"}\n',
    )


def test_a_coordinator_that_is_no_peer_id_is_usage(parhelion: Run, tmp_path: Path) -> None:
    code, out, err = parhelion("receipt", "verify", str(tmp_path), "--coordinator", "bad")
    assert (code, out) == (2, "")
    assert "error: --coordinator: 'bad' is not a peer id" in err


def test_verify_of_a_missing_file_is_a_problem_not_a_traceback(
    parhelion: Run, tmp_path: Path
) -> None:
    code, _, err = parhelion("receipt", "verify", str(tmp_path / "none.json"))
    assert code == 1
    assert "hint: save one with: parhelion receipt show" in err


def test_every_check_is_a_line_and_the_signing_id_is_always_there() -> None:
    checks = (
        Check(name="format", state="ok", detail="rcpt_1"),
        Check(name="ids", state="unchecked", detail="no evidence"),
    )
    text = report(b'{"coordinator": "12D3KooWx"}', checks)
    assert text.splitlines() == [
        "ok         format     rcpt_1",
        "unchecked  ids        no evidence",
        "",
        "signed by  12D3KooWx",
    ]
    assert signer(b"[1]") is None
    assert "nobody that can be read" in report(b"\xff", checks)


def test_an_explanation_is_told_in_the_order_of_the_money(parhelion: Run, api: Any) -> None:
    answer = {"share": ["85 % to node:x"], "source": "grant of 10", "cost": "0.00568 PRLX.local"}
    api.answers["GET /v1/receipts/rcpt_1/explain"] = (200, answer)
    code, out, _ = parhelion("receipt", "explain", "rcpt_1", *api.options())
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        "Deposit or grant",
        "Cost",
        "Operator share",
    ]
    assert story({"tokens": {"prompt": 10, "completion": 3}}).endswith("prompt 10  completion 3")
