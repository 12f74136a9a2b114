"""What only the admin key may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parhelion.words import Problem, ProblemCode

ADMIN = "adm-test-key"
ROUTES = [
    ("POST", "/v1/keys"),
    ("GET", "/v1/keys"),
    ("DELETE", "/v1/keys/key_x"),
    ("POST", "/v1/models"),
    ("DELETE", "/v1/models/Acme/Small-1"),
    ("POST", "/v1/invites"),
    ("GET", "/v1/nodes/access"),
    ("POST", "/v1/nodes/12D3KooWx/ban"),
    ("POST", "/v1/nodes/12D3KooWx/drain"),
    ("POST", "/v1/nodes/12D3KooWx/undrain"),
    ("POST", "/v1/nodes/12D3KooWx/allow"),
    ("POST", "/v1/nodes/12D3KooWx/succeed"),
    ("POST", "/v1/backup"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_the_admin_key_is_needed(pool: Any, method: str, path: str) -> None:
    body = {} if method == "POST" else None
    assert (await pool.call(method, path, body)).status == 401
    assert (await pool.call(method, path, body, key="wrong")).status == 401
    secret, _view = await pool.key()
    user = await pool.call(method, path, body, key=secret)
    assert (user.status, user.error["code"]) == (403, "forbidden")


async def test_the_admin_key_answers_no_prompt(pool: Any) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    response = await pool.call("POST", "/v1/chat/completions", body, key=ADMIN)
    assert response.status == 401


async def test_what_changes_needs_json(pool: Any) -> None:
    headers = {"content-type": "text/plain"}
    response = await pool.call("POST", "/v1/keys", raw=b"{}", key=ADMIN, headers=headers)
    assert response.status == 415


async def test_a_key_for_a_new_account_with_a_grant_works_at_once(pool: Any) -> None:
    wanted = {"name": "ci", "grant": "2500000", "limit": "1000000"}
    made = await pool.call("POST", "/v1/keys", wanted, key=ADMIN)
    assert made.status == 201
    assert made.json["limit"] == "1000000"
    assert made.json["asset"] == "PRLX.local"
    balance = await pool.call("GET", "/v1/credits/balance", key=made.json["secret"])
    assert balance.json["available"] == "1000000", "a limit shows its part, and no more"
    listed = (await pool.call("GET", "/v1/keys", key=ADMIN)).json["data"]
    assert [key["id"] for key in listed] == [made.json["id"]]
    assert "secret" not in listed[0]


async def test_a_second_key_shares_the_account_and_a_revoked_one_is_refused(pool: Any) -> None:
    first = (await pool.call("POST", "/v1/keys", {"grant": "5"}, key=ADMIN)).json
    body = {"account": first["account"]}
    second = (await pool.call("POST", "/v1/keys", body, key=ADMIN)).json
    path = "/v1/credits/balance"
    assert (await pool.call("GET", path, key=second["secret"])).json["available"] == "5"
    gone = await pool.call("DELETE", f"/v1/keys/{second['id']}", key=ADMIN)
    assert gone.json["revoked"] is True
    assert (await pool.call("GET", path, key=second["secret"])).status == 401
    assert (await pool.call("DELETE", "/v1/keys/key_none", key=ADMIN)).status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"grant": "5", "asset": "PRLX"}, 403),
        ({"grant": 5}, 400),
        ({"grant": "-5"}, 400),
        ({"limit": "1.5"}, 400),
        ({"name": ""}, 400),
        ({"asset": "prlx"}, 400),
        ({"expires_at_ms": 1}, 409),
        ({"account": "acct_none"}, 404),
        ({"colour": "red"}, 400),
    ],
)
async def test_an_odd_key_is_refused(pool: Any, body: dict[str, Any], status: int) -> None:
    response = await pool.call("POST", "/v1/keys", body, key=ADMIN)
    assert response.status == status
    assert response.error["code"]


async def test_only_a_local_folder_grants(pool: Any) -> None:
    response = await pool.call("POST", "/v1/keys", {"grant": "5", "asset": "USDC"}, key=ADMIN)
    assert (response.status, response.error["param"]) == (403, "grant")


async def test_a_model_is_removed_by_its_id_and_the_default_is_not(
    pool: Any, tmp_path: Path
) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    body = {"id": "Lab/Tiny", "path": str(tmp_path / "tiny.gguf")}
    assert (await pool.call("POST", "/v1/models", body, key=ADMIN)).status == 201
    gone = await pool.call("DELETE", "/v1/models/Lab/Tiny", key=ADMIN)
    assert (gone.status, gone.json) == (200, {"id": "Lab/Tiny", "removed": True})
    assert (await pool.call("GET", "/v1/models/Lab/Tiny")).status == 404
    assert pool.coordinator.catalogue_changes == 2, "who holds its layers is told"
    assert (await pool.call("DELETE", "/v1/models/Lab/Tiny", key=ADMIN)).status == 404
    kept = await pool.call("DELETE", "/v1/models/Acme/Small-1", key=ADMIN)
    assert (kept.status, kept.error["code"]) == (409, "conflict")
    for path, methods in (("Acme/Small-1", "DELETE, GET, HEAD"), ("Acme/Small-1/rates", "PUT")):
        odd = await pool.call("PATCH", f"/v1/models/{path}", key=ADMIN)
        assert (odd.status, odd.headers["allow"]) == (405, f"{methods}, OPTIONS")


async def test_a_model_is_added_at_the_pools_rates_and_its_rates_can_change(
    pool: Any, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF")
    body: dict[str, Any] = {"id": "tiny", "path": str(file)}
    made = await pool.call("POST", "/v1/models", body, key=ADMIN)
    assert made.status == 201
    assert made.json["pricing"]["prompt"] == "0.000004"
    body["rates"] = [{"asset": "PRLX.local", "prompt": "1000000", "completion": "0"}]
    changed = await pool.call("POST", "/v1/models", body, key=ADMIN)
    assert changed.json["pricing"]["prompt"] == "0.000001"
    relative = {"id": "x", "path": "tiny.gguf"}
    missing = {"id": "x", "path": str(tmp_path / "none.gguf")}
    assert (await pool.call("POST", "/v1/models", missing, key=ADMIN)).status == 404
    assert (await pool.call("POST", "/v1/models", relative, key=ADMIN)).status == 400


async def test_a_rate_is_put_once_however_often_it_is_said(pool: Any) -> None:
    path = "/v1/models/Acme/Small-1/rates"
    body = {"asset": "PRLX.local", "prompt": "7", "completion": "8"}
    for _ in range(3):
        done = await pool.call("PUT", path, body, key=ADMIN)
        assert done.status == 200
        (rate,) = done.json["rates"]
        assert rate == {"asset": "PRLX.local", "version": 2, "prompt": "7", "completion": "8"}
    secret, _view = await pool.key()
    for key, status in ((None, 401), (secret, 403)):
        assert (await pool.call("PUT", path, body, key=key)).status == status
    missing = await pool.call("PUT", "/v1/models/none/rates", body, key=ADMIN)
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")


async def test_a_rate_in_money_of_another_class_is_refused_by_words(pool: Any) -> None:
    body = {"asset": "USDC", "prompt": "7", "completion": "8"}
    response = await pool.call("PUT", "/v1/models/small-1/rates", body, key=ADMIN)
    assert (response.status, response.error["param"]) == (409, "asset")
    assert "PRLX.local" in response.error["hint"]
    assert (await pool.call("POST", "/v1/keys", {"asset": "USDC"}, key=ADMIN)).status == 409


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/models/Acme/Small-1", "DELETE, GET, HEAD, OPTIONS"),
        ("GET", "/v1/models/Acme/Small-1/rates", "PUT, OPTIONS"),
        ("HEAD", "/v1/models/Acme/Small-1/rates", "PUT, OPTIONS"),
        ("POST", "/v1/models/Acme/Small-1/rates", "PUT, OPTIONS"),
        ("OPTIONS", "/v1/models/Acme/Small-1/rates", "PUT, OPTIONS"),
    ],
)
async def test_a_models_rates_are_a_path_of_their_own(
    pool: Any, method: str, path: str, allow: str
) -> None:
    response = await pool.call(method, path, key=ADMIN)
    assert response.status == (204 if method == "OPTIONS" else 405)
    assert response.headers["allow"] == allow


async def test_an_invite_is_made_with_its_bounds(pool: Any) -> None:
    made = await pool.call("POST", "/v1/invites", {"uses": 2, "ttl_s": 60}, key=ADMIN)
    assert made.status == 201
    assert made.json["uses"] == 2
    assert len(made.json["invite"]) >= 16
    assert (await pool.call("POST", "/v1/invites", {"uses": 0}, key=ADMIN)).status == 400


async def test_a_banned_node_is_expelled_at_once_and_told_why(pool: Any, tmp_path: Path) -> None:
    from parhelion.identity import NodeKey

    peer = NodeKey.load_or_create(tmp_path / "node.key").peer
    path = f"/v1/nodes/{peer}/ban"
    gone = await pool.call("POST", path, {"reason": "lies"}, key=ADMIN)
    assert gone.json == {"peer": peer, "state": "banned", "here": False}
    assert pool.coordinator.expelled == [peer]
    with pytest.raises(Problem, match="banned by the pool's owner: lies"):
        await pool.access.admit(peer, None)
    back = await pool.call("POST", f"/v1/nodes/{peer}/allow", {}, key=ADMIN)
    assert back.json["state"] == "allowed"
    assert pool.coordinator.pardoned == [peer], "nobody is told that it is banned any more"
    assert (await pool.call("POST", "/v1/nodes/none/ban", {}, key=ADMIN)).status == 404


async def test_a_drained_node_is_sent_away_and_waits_until_it_is_undrained(
    pool: Any, tmp_path: Path
) -> None:
    from parhelion.identity import NodeKey

    peer = NodeKey.load_or_create(tmp_path / "node.key").peer
    await pool.access.allow(peer)
    body = {"reason": "new fan", "deadline_s": 5}
    gone = await pool.call("POST", f"/v1/nodes/{peer}/drain", body, key=ADMIN)
    assert gone.json == {"peer": peer, "state": "drained", "here": False}
    reason = "drained by the pool's owner: new fan"
    assert pool.coordinator.sent_away == [(peer, reason, 5.0)]
    with pytest.raises(Problem, match=reason) as caught:
        await pool.access.admit(peer, None)
    assert caught.value.code is ProblemCode.DRAINING and "undrain" in caught.value.hint
    for wrong in ({"deadline_s": -1}, {"deadline_s": 3601}, {"reason": "x" * 201}, {"x": 1}):
        path = f"/v1/nodes/{peer}/drain"
        assert (await pool.call("POST", path, wrong, key=ADMIN)).status == 400
    await pool.call("POST", f"/v1/nodes/{peer}/allow", {}, key=ADMIN)
    assert pool.coordinator.pardoned == [], "allowed, and drained still"
    back = await pool.call("POST", f"/v1/nodes/{peer}/undrain", {}, key=ADMIN)
    assert back.json["state"] == "undrained"
    assert pool.coordinator.pardoned == [peer]
    await pool.access.admit(peer, None)
    again = await pool.call("POST", f"/v1/nodes/{peer}/undrain", {}, key=ADMIN)
    assert again.status == 200, "twice is once"


async def test_what_was_decided_of_nodes_that_are_away_is_listed_with_why_and_when(
    pool: Any, tmp_path: Path
) -> None:
    from parhelion.identity import NodeKey, node_name

    bad, good, both = (NodeKey.load_or_create(tmp_path / name).peer for name in "abc")
    await pool.call("POST", f"/v1/nodes/{bad}/ban", {"reason": "lies"}, key=ADMIN)
    began_ms = pool.clock.now_ms()
    pool.clock.ahead_s += 60
    for peer in (good, both):
        await pool.call("POST", f"/v1/nodes/{peer}/allow", {}, key=ADMIN)
    pool.clock.ahead_s += 60
    await pool.call("POST", f"/v1/nodes/{both}/drain", {"reason": "new fan"}, key=ADMIN)
    told = (await pool.call("GET", "/v1/nodes/access", key=ADMIN)).json
    assert (told["object"], told["has_more"]) == ("list", False)
    seen = [(one["state"], one["peer"], one["reason"]) for one in told["data"]]
    allowed = [("allowed", peer, "admin") for peer in sorted((good, both))]
    assert seen == [("drained", both, "new fan"), *allowed, ("banned", bad, "lies")]
    assert told["data"][-1] == {
        "peer": bad, "name": node_name(bad), "state": "banned", "reason": "lies",
        "at_ms": began_ms, "next": None, "here": False,
    }  # fmt: skip
    banned = (await pool.call("GET", "/v1/nodes/access?state=banned", key=ADMIN)).json
    assert [one["peer"] for one in banned["data"]] == [bad]
    await pool.call("POST", f"/v1/nodes/{both}/undrain", {}, key=ADMIN)
    drained = (await pool.call("GET", "/v1/nodes/access?state=drained", key=ADMIN)).json
    assert drained["data"] == []
    wrong = await pool.call("GET", "/v1/nodes/access?state=odd", key=ADMIN)
    assert (wrong.status, wrong.error["param"]) == (400, "state")


async def test_a_key_is_succeeded_by_the_one_that_it_signed_for_and_its_session_ends(
    pool: Any, tmp_path: Path
) -> None:
    from parhelion.identity import NodeKey, succeed

    old, new, other = (NodeKey.load_or_create(tmp_path / name) for name in ("a", "b", "c"))
    path = f"/v1/nodes/{old.peer}/succeed"
    await pool.access.allow(old.peer)
    record = succeed(old, new.peer, pool.clock.now_ms())
    signed = {"new": new.peer, "at_ms": record.at_ms, "signature": record.signature}
    for changed in ({"new": other.peer}, {"at_ms": record.at_ms + 1}, {"signature": "A" * 86}):
        refused = await pool.call("POST", path, {**signed, **changed}, key=ADMIN)
        assert (refused.status, refused.error["code"]) == (403, "link_refused")
    nobody = {**signed, "new": "12D3KooW" + "1" * 44}
    refused = await pool.call("POST", path, nobody, key=ADMIN)
    assert (refused.status, refused.error["param"]) == (404, "new")
    assert pool.coordinator.expelled == []
    done = await pool.call("POST", path, signed, key=ADMIN)
    assert done.json == {"peer": old.peer, "state": "succeeded", "here": False}
    assert pool.coordinator.expelled == [old.peer]
    with pytest.raises(Problem, match="succeeded by another"):
        await pool.access.admit(old.peer, None)
    again = await pool.call("POST", path, signed, key=ADMIN)
    assert again.status == 403


async def test_a_backup_is_written_once_to_a_new_file(pool: Any, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    made = await pool.call("POST", "/v1/backup", {"path": str(target)}, key=ADMIN)
    assert made.status == 201
    assert made.json == {"path": str(target), "bytes": target.stat().st_size}
    again = await pool.call("POST", "/v1/backup", {"path": str(target)}, key=ADMIN)
    assert again.status == 409
    nowhere = str(tmp_path / "none" / "x.db")
    for path, status in (("copy.db", 400), ("/a\0b", 400), (nowhere, 404), ("/" + "a" * 999, 404)):
        answer = await pool.call("POST", "/v1/backup", {"path": path}, key=ADMIN)
        assert answer.status == status, path[:20]
