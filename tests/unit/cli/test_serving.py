"""What the serving commands share: signals, the line of JSON, and the words when ready."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from parhelion.bootstrap import Pool, Ready
from parhelion.bootstrap.ready import ChainAt
from parhelion.cli.join import talk_of
from parhelion.cli.options import Options
from parhelion.cli.serve import SERVE_PORT
from parhelion.cli.serving import (
    _until_stopped,
    command_line,
    first_admin_key,
    for_person,
    ready_line,
    welcome,
)
from parhelion.cli.up import Serving, news, tell_pool, waiting
from parhelion.config import Config, LogConfig
from parhelion.node import AgentState

READY = Ready(
    api="http://127.0.0.1:3001",
    web="http://127.0.0.1:3002",
    key="sk-prl-secret",
    node="12D3KooWnode",
    coordinator="12D3KooWcoordinator",
    join="/ip4/127.0.0.1/tcp/3001/p2p/12D3KooWcoordinator",
    balance_micro=10_000_000,
    asset="PRLX.local",
    model="HuggingFaceTB/SmolLM2-135M-Instruct",
)

SERVED = """
import asyncio, sys
from parhelion.bootstrap import Ready
from parhelion.cli.serving import attend
from parhelion.config import Config

async def served(*, on_ready, stop):
    on_ready(Ready(coordinator="c"))
    await stop.wait()
    print("drained", flush=True)
    await asyncio.sleep(float(sys.argv[1]))

sys.exit(attend(Config(), served, lambda ready: print("ready", flush=True)))
"""


LOCAL_CHAINS = tuple(
    ChainAt(network=network, rpc=f"http://127.0.0.1:{port}", local=True)
    for network, port in (("solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z", 5), ("eip155:84532", 6))
)


def test_a_pool_that_is_paid_in_play_money_says_so_to_persons_and_programs() -> None:
    assert "Pay" not in welcome(READY) and "chains" not in json.loads(ready_line(READY))
    paid = msgspec.structs.replace(READY, chains=LOCAL_CHAINS)
    told = next(line for line in welcome(paid).splitlines() if "Pay" in line)
    assert "USDC.local on two chains of this machine (LOCAL play money)" in told
    assert "parhelion wallet new, wallet fund, pay chat" in told
    assert json.loads(ready_line(paid))["chains"] == [
        {"network": chain.network, "rpc": chain.rpc, "local": True} for chain in LOCAL_CHAINS
    ]
    real = ChainAt(network="eip155:8453", rpc="https://mainnet.base.org", local=False)
    told = welcome(msgspec.structs.replace(READY, chains=(real,)))
    assert "USDC by x402 on eip155:8453" in told and "LOCAL" not in told


def test_play_money_for_a_lan_is_asked_for_in_so_many_words(tmp_path: Path) -> None:
    options = Options(data=tmp_path)
    assert not Serving().settings(options).x402.play_money_on_lan
    assert Serving(play_money_on_lan=True).settings(options).x402.play_money_on_lan


def test_the_json_line_has_exactly_the_five_fields() -> None:
    line = ready_line(READY)
    assert "\n" not in line
    assert list(json.loads(line)) == ["api", "web", "key", "node", "coordinator"]
    assert json.loads(ready_line(Ready(coordinator="c")))["key"] is None


def test_the_welcome_has_addresses_key_grant_and_a_curl_that_a_shell_can_read() -> None:
    text = welcome(READY)
    for wanted in (READY.api, READY.web, READY.key, "10 PRLX.local"):
        assert str(wanted) in text
    assert "for demonstration" in text
    command = text[text.index("  curl") : text.index("Or talk")].strip()
    words = subprocess.run(
        ["sh", "-c", f"set -- {command}; printf '%s\\n' \"$@\""], capture_output=True, text=True
    ).stdout.splitlines()
    assert words[1] == "http://127.0.0.1:3001/v1/chat/completions"
    assert "Authorization: Bearer sk-prl-secret" in words
    assert json.loads(words[-1])["stream"] is False


def test_a_pool_without_keys_shows_a_curl_without_one_and_the_join_command() -> None:
    free = Ready(api=READY.api, web=READY.web, coordinator="c", join=READY.join)
    text = waiting(free, 2, ()) + welcome(free, free=True)
    assert "Authorization" not in text
    assert "waiting for 2 nodes" in text
    assert "ready" not in text
    assert f"parhelion join -s '{READY.join}'\n" in text
    assert "may prompt" not in text


def test_the_join_command_names_a_models_file_without_the_owners_path() -> None:
    said = waiting(READY, 1, ("/home/owner/secret/my.gguf",))
    assert f"'{READY.join}' -m my.gguf\n" in said
    assert "/home/owner" not in said
    assert "Each machine needs my.gguf itself" in said
    assert "needs" not in waiting(READY, 1, ("smollm2",))
    assert "--pipeline" in waiting(READY, 2, ("large.gguf",)), "no machine may have room for it"
    assert "--pipeline" not in said


def test_on_loopback_it_is_said_that_no_other_machine_can_join() -> None:
    for need, where in (
        (1, "In another terminal of this machine:"),
        (2, "a --data DIR of its own:"),
    ):
        said = waiting(READY, need, ())
        assert where in said
        assert "On each machine" not in said
        assert f"parhelion join -s '{READY.join}'" in said
        assert "--host 0.0.0.0" in said and "an invite" in said
    open_to_all = msgspec.structs.replace(READY, lan_api="http://192.0.2.7:3001")
    assert "On each machine:" in waiting(open_to_all, 2, ())
    assert "--host" not in waiting(open_to_all, 2, ())


def test_where_others_can_reach_it_their_address_and_who_may_use_it_are_said() -> None:
    open_to_all = msgspec.structs.replace(READY, lan_api="http://192.0.2.7:3001")
    assert "http://192.0.2.7:3001" in welcome(open_to_all)
    assert "without a key" in welcome(open_to_all, free=True)
    assert "has a key may prompt" in welcome(open_to_all)


def test_who_joins_and_leaves_is_told_in_a_line_and_when_it_serves() -> None:
    one = Pool(need=2, ready=("clear-magpie",), complete=False)
    two = Pool(need=2, ready=("clear-magpie", "red-fox"), complete=True)
    assert news(None, one) == "1 of 2 joined: clear-magpie"
    assert news(one, two) == "2 of 2 joined: red-fox\nready"
    left = Pool(need=2, ready=("red-fox",), complete=True)
    assert news(two, left) == "clear-magpie left; 1 of 2 here"
    nobody = Pool(need=2, ready=(), complete=False)
    assert news(left, nobody).endswith("waiting: no prompt can be served now")
    strangers = Pool(need=1, ready=("red-fox",), complete=False)
    assert news(None, strangers).endswith(
        "none of them serves this pool's model; join as the command says"
    )
    members = msgspec.structs.replace(strangers, has_members=True)
    assert "`parhelion plan`" in news(None, members), "they wait for layers, and did join rightly"


def test_this_machines_own_node_is_no_news(capsys: pytest.CaptureFixture[str]) -> None:
    tell = tell_pool(has_own=True)
    tell(Pool(need=1, ready=("own",), complete=True))
    assert capsys.readouterr().err == ""
    tell(Pool(need=1, ready=("own", "red-fox"), complete=True))
    assert capsys.readouterr() == ("", "2 joined: red-fox\n")


def test_a_coordinator_that_said_goodbye_is_waited_for_in_words() -> None:
    told: list[str] = []
    talk_of(AgentState(state="joining", reason="the coordinator is stopping"), told.append)
    talk_of(AgentState(state="joining", reason="refused", fault=True), told.append)
    talk_of(AgentState(state="ready"), told.append)
    assert told == [
        "joining: waiting for the coordinator: the coordinator is stopping",
        "joined again",
    ]


def test_the_admin_key_is_shown_at_the_first_start_only(tmp_path: Path) -> None:
    made = first_admin_key(tmp_path)
    assert made() is None
    path = tmp_path / "admin.key"
    path.touch(0o600)
    path.write_text("secret")
    assert made() == ("secret", path)
    assert first_admin_key(tmp_path)() is None


def test_a_terminal_gets_short_lines_unless_something_was_configured() -> None:
    assert for_person(Config(), terminal=True).log.format == "text"
    assert for_person(Config(), terminal=False) == Config()
    said = Config(log=LogConfig(level="debug"))
    assert for_person(said, terminal=True) == said


def test_the_chat_command_names_the_data_folder_that_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["/venv/bin/parhelion", "up"])
    monkeypatch.setenv("PATH", "")
    assert command_line("chat", None) == "/venv/bin/parhelion chat"
    assert command_line("chat", Path("/a b")) == "/venv/bin/parhelion chat --data '/a b'"
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert command_line("chat", None) == "parhelion chat"


def test_options_win_over_environment_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text("[api]\nport = 1\n[web]\nport = 2\n")
    monkeypatch.setenv("PARHELION_API_PORT", "3")
    options = Options(data=tmp_path)
    assert (options.settings().api.port, options.settings().web.port) == (3, 2)
    assert Options(data=tmp_path, api_port=4).settings().api.port == 4
    assert options.settings().data == str(tmp_path)
    monkeypatch.setenv("PARHELION_DATA", str(tmp_path / "other"))
    assert Options().folder() == tmp_path / "other"
    assert options.folder() == tmp_path


def test_bind_sets_host_and_admission_and_serve_has_its_own_port(tmp_path: Path) -> None:
    config = Serving(host="0.0.0.0", open_=True).settings(Options(data=tmp_path), port=SERVE_PORT)
    assert (config.api.host, config.web.host) == ("0.0.0.0", "0.0.0.0")
    assert (config.api.port, config.nodes.admit) == (4001, "open")
    assert Serving().settings(Options(data=tmp_path)).nodes.admit == "auto"


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_drains_and_exits_0(number: signal.Signals) -> None:
    process = _serve("0.1")
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "drained" in out
    assert "once more ends at once" in err


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_second_ctrl_c_ends_at_once() -> None:
    process = _serve("60")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "drained\n"
    began_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    assert time.monotonic() - began_s < 5


def _serve(drain_s: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVED, drain_s],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_terminal_that_was_closed_does_not_keep_a_signal_from_ending_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def closed(_text: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("parhelion.cli.say.talk", closed)

    async def served(*, on_ready: Any, stop: asyncio.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(5):
            await stop.wait()

    asyncio.run(_until_stopped(served, lambda _ready: None))
