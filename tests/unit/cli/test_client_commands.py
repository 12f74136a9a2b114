"""Commands that ask the running coordinator: what they send, and how answers are shown."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from parhelion.cli.client import connect, tidy
from parhelion.cli.durations import duration_ms
from parhelion.cli.keys import micro_of
from parhelion.cli.nodes import _models
from parhelion.cli.options import Client
from parhelion.cli.say import amount
from parhelion.identity import NodeKey, Succession
from parhelion.identity.succession import check
from parhelion.words import Problem, ProblemCode

Run = Callable[..., tuple[int, str, str]]

PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
NODE = {
    "name": "amber-heron-3f2a",
    "peer": PEER,
    "state": "ready",
    "reason": None,
    "models": ["a/b"],
    "slots": 16,
    "slots_busy": 3,
    "tokens_per_s": None,
    "served": 7,
    "failed": 0,
}


def test_nodes_shows_an_unknown_speed_as_a_dash_and_never_cuts_a_peer_id(
    parhelion: Run, api: Any
) -> None:
    api.answers["GET /v1/nodes"] = (200, {"data": [NODE]})
    code, out, _ = parhelion("nodes", *api.options())
    assert code == 0
    assert PEER in out
    assert out.splitlines()[1].split()[:5] == ["amber-heron-3f2a", "ready", "3/16", "-", "7"]


def a_stage(name: str, start: int, end: int, **changes: Any) -> dict[str, Any]:
    """A stage as /v1/nodes has it, linked to amber."""
    link = {"peer": "12D3KooWamber", "path": "relay", "rtt_ms": 2.04, "mbit_s": 94.6,
            "sent_bytes": 1, "received_bytes": 2}  # fmt: skip
    return {"pipeline": "pipeline-1", "model": "a/b", "peer": f"12D3KooW{name}", "name": name,
            "start": start, "end": end, "is_loaded": True, "resident_bytes": 200 * 2**20,
            "step_ms": 8.25, "next_link": link, **changes}  # fmt: skip


def a_pipeline(*stages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"id": "pipeline-1", "model": "a/b", "epoch": 2, "state": "serving", "reason": None,
            "since_ms": 0, "slots": 8, "slots_busy": 3, "tokens_per_s": 31.26, "first_id_s": 0.1,
            "served": 7, "failed": 1, "bottleneck": "12D3KooWgrey", "stages": list(stages),
            **changes}  # fmt: skip


def test_nodes_shows_pipelines_stage_by_stage_and_who_is_standby(parhelion: Run, api: Any) -> None:
    spare = {**NODE, "models": [], "standby": True, "memory_bytes": 3 * 2**30}
    ring = a_pipeline(a_stage("amber", 0, 14), a_stage("grey", 14, 15, next_link=None))
    answer = {"data": [NODE, spare], "pipelines": [ring]}
    api.answers["GET /v1/nodes"] = (200, answer)
    code, out, _ = parhelion("nodes", *api.options())
    assert code == 0
    nodes, pipelines = out.split("\n\n")
    heads, whole, standby = nodes.splitlines()
    assert heads.split()[-2:] == ["OFFERS", "PEER"]
    assert whole.split()[-2:] == ["-", PEER]
    assert "ready, standby" in standby
    assert (whole.split()[2], standby.split()[3]) == ("3/16", "-")
    assert standby.split()[-3:] == ["3.0", "GiB", PEER]
    _, row, first, last = pipelines.splitlines()
    assert row.split() == ["pipeline-1", "2", "3/8", "31.3", "7", "1", "grey", "a/b", "serving"]
    assert " ".join(first.split()) == (
        "layers 0-13 amber 8.2 ms a step 200 MiB to amber: relay, 2.0 ms, 95 Mbit/s"
    )
    assert " ".join(last.split()) == "layer 14 grey 8.2 ms a step 200 MiB"
    assert json.loads(parhelion("nodes", "--json", *api.options())[1]) == answer


def test_nodes_shows_a_pipeline_that_is_not_up_with_its_reason(parhelion: Run, api: Any) -> None:
    unknown = {"slots": None, "slots_busy": None, "tokens_per_s": None, "bottleneck": None}
    stage = a_stage("x\nforged", 0, 30, is_loaded=False, resident_bytes=None, step_ms=None)
    failed = a_pipeline(stage, state="failed", reason="node grey left:\nforged", **unknown)
    empty = a_pipeline(state="draining", model="0123456789ab" + 52 * "c", **unknown)
    api.answers["GET /v1/nodes"] = (200, {"data": [], "pipelines": [failed, empty]})
    _, out, _ = parhelion("nodes", *api.options())
    assert " 0123456789ab, removed " in out
    assert "failed (node grey left: forged)" in out
    assert "not loaded" in out
    assert not any(line.strip().startswith("forged") for line in out.splitlines())


def test_a_ring_that_drains_names_the_node_that_its_next_plan_has_not(
    parhelion: Run, api: Any
) -> None:
    link = {"peer": PEER, "path": "direct", "rtt_ms": None, "mbit_s": None}
    ring = a_pipeline(a_stage("grey", 0, 15, next_link=link), state="draining", bottleneck=PEER)
    api.answers["GET /v1/nodes"] = (200, {"data": [NODE], "pipelines": [ring]})
    _, out, _ = parhelion("nodes", *api.options())
    assert out.splitlines()[-2].split()[6] == "amber-heron-3f2a"
    assert out.splitlines()[-1].endswith("to amber-heron-3f2a: direct")


def test_nodes_shows_nothing_of_pipelines_where_there_are_none(parhelion: Run, api: Any) -> None:
    api.answers["GET /v1/nodes"] = (200, {"data": [NODE], "pipelines": []})
    _, out, _ = parhelion("nodes", *api.options())
    assert "OFFERS" not in out
    assert len(out.splitlines()) == 2


def test_credits_are_printed_as_exact_decimals(parhelion: Run, api: Any) -> None:
    balance = {"account": "a", "asset": "PRLX.local", "available": "9994320", "held": "0"}
    api.answers["GET /v1/credits/balance"] = (200, balance)
    _, out, _ = parhelion("credits", *api.options())
    assert out.splitlines() == ["available  9.99432 PRLX.local", "held       0 PRLX.local"]
    assert api.asked[0][1] == "Bearer sk-prl-first"


def test_credits_history_shows_what_each_entry_did_to_the_balance(parhelion: Run, api: Any) -> None:
    def entry(kind: str, available: str, held: str) -> dict[str, Any]:
        shown = {"asset": "PRLX.local", "request": "req_1", "memo": "", "amount": "9"}
        return {"id": kind, "at_ms": 0, "kind": kind, **shown, "available": available, "held": held}

    first, last = "GET /v1/credits/history?limit=199", "&before=charge"
    page = [entry("return", "500000", "-500000"), entry("charge", "0", "-500000")]
    api.answers[first] = (200, {"data": page, "has_more": True, "next": "charge"})
    rest = [entry("hold", "-1000000", "1000000")]
    api.answers[first + last] = (200, {"data": rest, "has_more": False, "next": None})
    code, out, _ = parhelion("credits", "history", "--all", *api.options())
    assert code == 0
    assert [line.split()[2:5] for line in out.splitlines()[1:]] == [
        ["return", "+0.5", "-0.5"],
        ["charge", "-", "-0.5"],
        ["hold", "-1", "+1"],
    ]
    _, _, err = parhelion("credits", "history", "--limit", "199", *api.options())
    assert "older entries exist: --all" in err


def test_credits_history_shows_signed_amounts(parhelion: Run, api: Any) -> None:
    entry = {
        "id": "e1",
        "at_ms": 0,
        "kind": "charge",
        "asset": "PRLX.local",
        "amount": "-5680",
        "request": "req_1",
        "memo": "",
    }
    api.answers["GET /v1/credits/history?limit=2"] = (200, {"data": [entry]})
    _, out, _ = parhelion("credits", "history", "--limit", "2", *api.options())
    assert "charge" in out
    assert "-0.00568" in out


def test_a_key_is_created_with_limit_and_expiry_for_the_first_keys_account(
    parhelion: Run, api: Any
) -> None:
    api.answers["GET /v1/credits/balance"] = (200, {"account": "acct_1"})
    api.answers["POST /v1/keys"] = (201, {"id": "key_1", "secret": "sk-prl-new"})
    options = ("--name", "bot", "--limit", "0.5", "--expires", "1h")
    code, out, err = parhelion("keys", "create", *options, *api.options())
    assert (code, out) == (0, "sk-prl-new\n")
    assert "shown once" in err
    line, bearer, body = api.asked[-1]
    assert (line, bearer) == ("POST /v1/keys", "Bearer the-admin")
    assert body["limit"] == "500000"
    assert body["account"] == "acct_1"
    assert abs(body["expires_at_ms"] - (time.time() + 3600) * 1000) < 60_000


def test_keys_are_listed_and_revoked_with_the_admin_key(parhelion: Run, api: Any) -> None:
    key = {
        "id": "key_1",
        "account": "acct_1",
        "name": "bot",
        "asset": "PRLX.local",
        "limit": "500000",
        "spent": "5680",
        "expires_at_ms": None,
        "revoked": True,
        "created_at_ms": 1,
        "prefix": "sk-prl-ab",
    }
    api.answers["GET /v1/keys"] = (200, {"data": [key]})
    api.answers["DELETE /v1/keys/key_1"] = (200, {**key, "revoked": True})
    _, out, _ = parhelion("keys", "list", *api.options())
    assert "revoked" in out
    assert "0.00568 PRLX.local" in out
    assert parhelion("keys", "revoke", "key_1", *api.options())[:2] == (0, "revoked key_1\n")
    assert all(bearer == "Bearer the-admin" for _, bearer, _ in api.asked)


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "works"),
        ({"revoked": True, "expires_at_ms": 1}, "revoked"),
        ({"expires_at_ms": 1}, "expired"),
        ({"limit": "5", "spent": "5"}, "used up"),
        ({"limit": "5", "spent": "4", "expires_at_ms": 2**50}, "works"),
        ({"limit": "0"}, "used up"),
    ],
)
def test_a_key_works_only_while_it_may_spend(
    fields: dict[str, Any], state: str, parhelion: Run, api: Any
) -> None:
    key = {"id": "key_1", "spent": "0", "limit": None, "expires_at_ms": None, "revoked": False}
    api.answers["GET /v1/keys"] = (200, {"data": [{**key, **fields}]})
    _, out, _ = parhelion("keys", "list", *api.options())
    assert f"  {state}  " in out


def test_nodes_are_invited_banned_drained_and_let_in_with_the_admin_key(
    parhelion: Run, api: Any
) -> None:
    made = {"invite": "secret", "uses": 2, "expires_at_ms": 0}
    api.answers["POST /v1/invites"] = (201, made)
    for what, state in (
        ("ban", "banned"),
        ("allow", "allowed"),
        ("drain", "drained"),
        ("undrain", "undrained"),
    ):
        answer = {"peer": PEER, "state": state, "here": True}
        api.answers[f"POST /v1/nodes/{PEER}/{what}"] = (200, answer)
    options = ("--uses", "2", "--expires", "1d", *api.options())
    assert parhelion("nodes", "invite", *options)[:2] == (0, "secret\n")
    assert parhelion("nodes", "ban", PEER, "--reason", "noisy", *api.options())[0] == 0
    assert parhelion("nodes", "allow", PEER, *api.options())[:2] == (0, f"allowed {PEER}\n")
    words = ("--reason", "new fan", "--within", "5m", *api.options())
    assert parhelion("nodes", "drain", PEER, *words)[:2] == (0, f"drained {PEER}\n")
    assert parhelion("nodes", "drain", PEER, *api.options())[0] == 0
    assert parhelion("nodes", "drain", PEER, "--within", "0s", *api.options())[0] == 0
    assert parhelion("nodes", "undrain", PEER, *api.options())[:2] == (0, f"undrained {PEER}\n")
    assert [(bearer, body) for _, bearer, body in api.asked] == [
        ("Bearer the-admin", {"uses": 2, "ttl_s": 86_400}),
        ("Bearer the-admin", {"reason": "noisy"}),
        ("Bearer the-admin", {}),
        ("Bearer the-admin", {"reason": "new fan", "deadline_s": 300.0}),
        ("Bearer the-admin", {}),
        ("Bearer the-admin", {"deadline_s": 0.0}),
        ("Bearer the-admin", {}),
    ]


def test_nodes_that_were_banned_allowed_or_drained_are_listed_also_while_away(
    parhelion: Run, api: Any
) -> None:
    banned = {"peer": PEER, "name": "red-fox", "state": "banned", "reason": "noisy",
              "at_ms": 1_700_000_000_000, "next": None, "here": False}  # fmt: skip
    listed = {**banned, "state": "allowed", "reason": "config", "at_ms": None, "here": True}
    gone = {**banned, "state": "succeeded", "reason": "", "next": "12D3KooWnew"}
    told = {"object": "list", "data": [banned, listed, gone], "has_more": True}
    api.answers["GET /v1/nodes/access"] = (200, told)
    code, out, err = parhelion("nodes", "access", *api.options())
    assert code == 0 and "older ones are left out" in err
    lines = out.splitlines()
    assert lines[1].startswith("banned ") and "  no  " in lines[1] and "2023-11-1" in lines[1]
    assert lines[1].endswith("noisy") and PEER in lines[1]
    assert lines[2].split()[:3] == ["allowed", "-", "yes"]
    assert "(followed by 12D3KooWnew)" in lines[3]
    api.answers["GET /v1/nodes/access?state=drained"] = (200, {"data": [], "has_more": False})
    code, out, err = parhelion("nodes", "access", "--state", "drained", *api.options())
    assert (code, "nothing was decided" in err) == (0, True)
    assert {bearer for _, bearer, _ in api.asked} == {"Bearer the-admin"}


def test_a_node_is_named_as_it_is_shown_where_only_one_has_the_name(
    parhelion: Run, api: Any
) -> None:
    shown = [{"name": "red-fox", "peer": PEER}, {"name": "twin", "peer": "a"}]
    api.answers["GET /v1/nodes"] = (200, {"data": [*shown, {"name": "twin", "peer": "b"}]})
    api.answers[f"POST /v1/nodes/{PEER}/ban"] = (200, {"peer": PEER, "state": "banned"})
    assert parhelion("nodes", "ban", "red-fox", *api.options())[:2] == (0, f"banned {PEER}\n")
    code, _, err = parhelion("nodes", "ban", "twin", *api.options())
    assert code == 2 and "2 nodes are called 'twin'" in err and "say which" in err
    api.answers["GET /v1/nodes/access"] = (200, {"data": []})
    code, _, err = parhelion("nodes", "ban", "nobody", *api.options())
    assert code == 2 and "nor the name of a node that is shown" in err


def test_a_node_that_is_away_is_named_as_it_was_when_something_was_decided(
    parhelion: Run, api: Any
) -> None:
    api.answers["GET /v1/nodes"] = (200, {"data": [{"name": "amber", "peer": "a"}]})
    away = {"name": "node2", "peer": PEER, "state": "drained"}
    api.answers["GET /v1/nodes/access"] = (200, {"data": [away, {**away, "state": "allowed"}]})
    answer = {"peer": PEER, "state": "undrained", "here": False}
    api.answers[f"POST /v1/nodes/{PEER}/undrain"] = (200, answer)
    code, out, _ = parhelion("nodes", "undrain", "node2", *api.options())
    assert (code, out) == (0, f"undrained {PEER}\n")


def test_who_is_allowed_and_not_here_must_be_started_again(parhelion: Run, api: Any) -> None:
    path = f"POST /v1/nodes/{PEER}/allow"
    for here in (True, False):
        api.answers[path] = (200, {"peer": PEER, "state": "allowed", "here": here})
        code, out, err = parhelion("nodes", "allow", PEER, *api.options())
        assert (code, out) == (0, f"allowed {PEER}\n")
        assert ("start it again" in err) != here and len(err.splitlines()) == (not here)


@pytest.mark.parametrize("said", ["-5s", "5", "soon", "--json"])
def test_what_is_no_duration_is_told_what_one_is(parhelion: Run, api: Any, said: str) -> None:
    code, _, err = parhelion("nodes", "drain", PEER, "--within", said, *api.options())
    assert code == 2 and f"{said!r} is not a duration" in err and "90s, 15m" in err


def test_without_the_admin_key_a_command_says_where_to_run_it(parhelion: Run, api: Any) -> None:
    (api.data / "admin.key").unlink()
    code, _, err = parhelion("keys", "list", *api.options())
    assert code == 1
    assert "hint: run it on the coordinator's machine" in err


def test_a_model_is_removed_with_the_admin_key_and_the_reason_of_a_refusal_is_said(
    parhelion: Run, api: Any
) -> None:
    api.answers["DELETE /v1/models/a/b"] = (200, {"id": "a/b", "removed": True})
    remove = ("models", "remove", "a/b", *api.options())
    assert parhelion(*remove)[:2] == (0, "removed a/b\n")
    assert api.asked[-1] == ("DELETE /v1/models/a/b", "Bearer the-admin", None)
    error = {"message": "it is the default", "hint": "start it with another one first"}
    api.answers["DELETE /v1/models/a/b"] = (409, {"error": {**error, "code": "conflict"}})
    code, _, err = parhelion(*remove)
    assert (code, error["message"] in err, error["hint"] in err) == (1, True, True)


def test_models_are_listed_with_prices_a_million(parhelion: Run, api: Any) -> None:
    model = {
        "id": "a/b",
        "pricing": {"prompt": "0.000004", "completion": "0.000004"},
        "context_length": 8192,
        "purpose": "chat",
        "memory_bytes": 3 * 2**29,
        "nodes": 3,
        "digest": "b179c9523d0e6a",
        "vocabulary": "aa" * 32,
    }
    away = {**model, "id": "c/d", "available": False}
    here = {**model, "available": True}
    api.answers["GET /v1/models"] = (200, {"data": [here, away, model]})
    _, out, _ = parhelion("models", "list", *api.options())
    heads, *rows = [line.split() for line in out.splitlines()]
    memory = ["1.5", "GiB"]
    assert rows[0] == [
        *("a/b", "yes", "chat", "8192", *memory, "4", "4", "3", "b179c9523d0e", "aa" * 6, "-")
    ]
    at = heads.index("AVAILABLE")
    assert [row[at] for row in rows] == ["yes", "no", "-"]


def test_the_published_families_are_listed_without_a_coordinator(
    parhelion: Run, tmp_path: Path
) -> None:
    code, out, err = parhelion("models", "list", "--known", "--data", str(tmp_path))
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("Qwen/Qwen3-8B "))
    assert line.split()[1:8] == ["Qwen3", "8.2B", "reasoning", "32768", "4.3", "GiB", "8.1"]
    assert "none of them is served until its file is here" in err
    code, out, _ = parhelion("models", "list", "--known", "--json", "--data", str(tmp_path))
    rows = {row["id"]: row for row in json.loads(out)["data"]}
    assert rows["Qwen/Qwen3-8B"]["weights_bytes"]["F16"] == 16_400_000_000
    assert rows["MiniMaxAI/MiniMax-M2"]["context"] is None


def test_a_model_is_added_by_its_id_with_its_rates(
    parhelion: Run, api: Any, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.gguf"
    file.touch()
    api.answers["POST /v1/models"] = (201, {"id": "Lab/Tiny"})
    add = ("models", "add", "Lab/Tiny", "--gguf", str(file))
    assert parhelion(*add, *api.options())[:2] == (0, "added Lab/Tiny\n")
    assert api.asked[-1][2] == {"id": "Lab/Tiny", "path": str(file)}
    rates = ("--rate", "USDC.local=0.25:1", "--rate", "PRLX.local=4")
    assert parhelion(*add, *rates, *api.options())[0] == 0
    assert api.asked[-1][2]["rates"] == [
        {"asset": "USDC.local", "prompt": "250000", "completion": "1000000"},
        {"asset": "PRLX.local", "prompt": "4000000", "completion": "4000000"},
    ]
    # Without an asset it is the pool's own.
    first = {"id": "a/b", "pricing": {"asset": "PRLX.test", "prompt": "0", "completion": "0"}}
    api.answers["GET /v1/models"] = (200, {"data": [first]})
    assert parhelion(*add, "--rate", "2", *api.options())[0] == 0
    assert api.asked[-1][2]["rates"][0]["asset"] == "PRLX.test"
    code, _, err = parhelion(*add, "--rate", "cheap", *api.options())
    assert code == 2 and "cheap" in err


def test_a_model_is_added_by_its_whole_path_and_named_by_its_stem(
    parhelion: Run, api: Any, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.gguf"
    file.touch()
    api.answers["POST /v1/models"] = (201, {"id": "tiny"})
    assert parhelion("models", "add", str(file), *api.options())[:2] == (0, "added tiny\n")
    assert api.asked[-1][2] == {"id": "tiny", "path": str(file)}
    api.answers["POST /v1/models"] = (201, {"id": "older"})
    add = ("models", "add", str(file), *api.options())
    assert parhelion(*add)[:2] == (0, "known already as older\n")
    code, out, err = parhelion(*add, "--id", "newer")
    assert (code, out) == (1, "")
    assert "this file is in the catalogue already, as older" in err
    code, _, err = parhelion("models", "add", str(tmp_path / "none.gguf"), *api.options())
    assert code == 1
    assert "is no file" in err


def test_a_model_is_priced_a_million_tokens_in_the_pools_asset(parhelion: Run, api: Any) -> None:
    model = {"id": "a/b", "pricing": {"asset": "PRLX.local", "prompt": "0", "completion": "0"}}
    api.answers["GET /v1/models/a/b"] = (200, model)
    api.answers["PUT /v1/models/a/b/rates"] = (200, model)
    prices = ("--prompt", "0.25", "--completion", "4")
    code, out, _ = parhelion("models", "price", "a/b", *prices, *api.options())
    assert (code, out) == (0, "a/b costs 0.25 + 4 PRLX.local per 1,000,000\n")
    body = {"asset": "PRLX.local", "prompt": "250000", "completion": "4000000"}
    assert api.asked[-1] == ("PUT /v1/models/a/b/rates", "Bearer the-admin", body)


def test_a_backup_never_overwrites(parhelion: Run, api: Any, tmp_path: Path) -> None:
    file = tmp_path / "there"
    file.write_text("precious")
    code, _, err = parhelion("backup", str(file), *api.options())
    assert code == 1
    assert "exists already" in err
    assert api.asked == []


def test_the_coordinators_own_words_and_hint_are_shown(parhelion: Run, api: Any) -> None:
    body = {"error": {"message": "too little credit", "code": "insufficient_credit", "hint": "top"}}
    api.answers["GET /v1/credits/balance"] = (402, body)
    code, _, err = parhelion("credits", *api.options())
    assert (code, err) == (1, "error: too little credit\n\nhint: top\n")


def test_who_is_in_charge_here_is_told_what_they_can_do_beside_the_clients_words(
    parhelion: Run, api: Any
) -> None:
    body = {"error": {"message": "nobody serves it", "code": "no_node", "hint": "try again"}}
    api.answers["GET /v1/models"] = (503, body)
    err = parhelion("models", "list", *api.options())[2]
    assert "hint: try again; yours to start: parhelion join" in err
    # At an address that was typed in, nobody is in charge.
    err = parhelion("models", "list", "--api", api.base)[2]
    assert err == "error: nobody serves it\n\nhint: try again\n"


def test_a_new_key_takes_the_old_ones_place_by_what_the_old_one_signed(
    parhelion: Run, api: Any, tmp_path: Path
) -> None:
    old = NodeKey.load_or_create(tmp_path / "node" / "node.key")
    where = ["--data", str(tmp_path / "node")]
    code, out, err = parhelion("nodes", "succession", str(tmp_path / "new"), *where)
    assert code == 0 and "nodes succeed FILE" in err
    record = msgspec.json.decode(out, type=Succession)
    assert record.old == old.peer
    assert record.new == NodeKey.load_or_create(tmp_path / "new" / "node.key").peer
    check(record, record.at_ms)
    file = tmp_path / "succession.json"
    file.write_text(out)
    line = f"POST /v1/nodes/{old.peer}/succeed"
    api.answers[line] = (200, {"peer": old.peer, "state": "succeeded"})
    assert parhelion("nodes", "succeed", str(file), *api.options())[:2] == (
        0,
        f"succeeded {old.peer}\n",
    )
    sent = {"new": record.new, "at_ms": record.at_ms, "signature": record.signature}
    assert api.asked[-1] == (line, "Bearer the-admin", sent)


def test_a_succession_that_cannot_be_is_usage(parhelion: Run, api: Any, tmp_path: Path) -> None:
    file = tmp_path / "none.json"
    for text in (None, "[]", "{}", "x", '{"old": "bad"}'):
        if text is not None:
            file.write_text(text)
        assert parhelion("nodes", "succeed", str(file), *api.options())[0] == 2
    empty, node = tmp_path / "empty", tmp_path / "node"
    assert parhelion("nodes", "succession", str(node), "--data", str(empty))[0] == 2
    NodeKey.load_or_create(node / "node.key")
    assert parhelion("nodes", "succession", str(node), "--data", str(node))[0] == 2
    assert not (empty / "node.key").exists()


def test_no_node_is_said_of_now_and_not_of_ever(parhelion: Run, api: Any) -> None:
    api.answers["GET /v1/nodes"] = (200, {"data": []})
    assert parhelion("nodes", *api.options())[2] == "no node is here now\n"


def test_an_error_without_a_hint_gets_ours(parhelion: Run, api: Any) -> None:
    body = {"error": {"message": "no", "code": "invalid_api_key"}}
    api.answers["GET /v1/credits/balance"] = (401, body)
    assert "hint: `parhelion keys list`" in parhelion("credits", *api.options())[2]


def test_an_answer_that_is_no_json_is_an_error_not_a_traceback(parhelion: Run, api: Any) -> None:
    api.answers["GET /v1/credits/balance"] = (502, b"<html>")
    code, _, err = parhelion("credits", *api.options())
    assert code == 1
    assert "no Parhelion coordinator answers at" in err
    assert "502" in err


def test_another_program_at_the_address_is_told_from_a_coordinator(
    parhelion: Run, api: Any
) -> None:
    api.answers["GET /v1/nodes"] = (200, b"<html>hello</html>")
    code, _, err = parhelion("nodes", "--api", api.base)
    assert code == 1
    assert "no Parhelion coordinator answers at" in err
    assert "hint: another program may have this port" in err


def test_a_plain_server_given_as_https_gets_the_hint_to_try_http(parhelion: Run, api: Any) -> None:
    code, _, err = parhelion("nodes", "--api", api.base.replace("http:", "https:"))
    assert code == 1
    assert f"hint: try plain http: --api {api.base}" in err


def test_a_name_that_no_resolver_takes_is_no_traceback(parhelion: Run) -> None:
    code, _, err = parhelion("nodes", "--api", f"http://{'a' * 70}:1")
    assert code == 1
    assert "error: no Parhelion coordinator" in err


def test_secrets_of_the_folder_do_not_go_to_an_address_typed_in(api: Any) -> None:
    named = connect(Client(data=api.data, api=api.base))
    assert (named.key, named.admin) == (None, None)
    found = connect(Client(data=api.data))
    assert (found.key, found.admin) == ("sk-prl-first", "the-admin")
    assert connect(Client(data=api.data, key="sk-mine")).key == "sk-mine"


def test_another_port_than_the_written_one_is_believed(api: Any) -> None:
    assert connect(Client(data=api.data, api_port=9)).base == "http://127.0.0.1:9"
    assert connect(Client(data=api.data)).base == api.base


@pytest.mark.parametrize(
    ("typed", "base"),
    [
        ("localhost:3001", "http://localhost:3001"),
        ("http://0.0.0.0:3001", "http://127.0.0.1:3001"),
        ("https://pool.example/v1", "https://pool.example"),
        ("http://[::]:3001", "http://[::1]:3001"),
    ],
)
def test_an_address_is_tidied(typed: str, base: str) -> None:
    assert tidy(typed) == base


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(Problem) as caught:
        tidy("ftp://x")
    assert caught.value.code is ProblemCode.INVALID_REQUEST


@pytest.mark.parametrize("text", ["x", "-1", "0.0000001", "nan", "inf", "1e99"])
def test_an_amount_that_is_not_exact_base_units_is_refused(text: str) -> None:
    with pytest.raises(Problem):
        micro_of(text)


def test_amounts_and_durations_are_exact() -> None:
    assert micro_of("0.00568") == 5680
    assert micro_of("0") == 0
    assert duration_ms("30d") == 30 * 86_400_000
    assert [duration_ms(text) // 1000 for text in ("90s", "15m", "12h", "2w")] == [
        90,
        900,
        43_200,
        1_209_600,
    ]
    with pytest.raises(Problem):
        duration_ms("soon")
    with pytest.raises(Problem):
        duration_ms("0s")
    assert duration_ms("0s", least_s=0) == 0
    assert [amount(n) for n in (0, 1, -1, 5680, 10_000_000)] == [
        "0",
        "0.000001",
        "-0.000001",
        "0.00568",
        "10",
    ]


def test_json_prints_the_answer_as_it_came(parhelion: Run, api: Any) -> None:
    api.answers["GET /v1/models"] = (200, {"object": "list", "data": []})
    _, out, err = parhelion("models", "list", "--json", *api.options())
    assert json.loads(out) == {"object": "list", "data": []}
    assert err == ""


def test_a_model_whose_engine_does_not_run_is_marked_in_the_list_of_nodes() -> None:
    states = [{"model": "a/b", "state": "ready"}, {"model": "c", "state": "failed"}]
    assert _models({**NODE, "models": ["a/b", "c"], "model_states": states}) == [
        "a/b", "c (failed)",
    ]  # fmt: skip
    assert _models({"models": ["a/b"]}) == ["a/b"] and _models({}) == []
