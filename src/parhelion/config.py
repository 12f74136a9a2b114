"""Settings: one frozen struct per room, from TOML and environment; unknown keys are refused."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import msgspec

from parhelion.words import AssetClass, ClosedRecord, Problem, ProblemCode, Tier

ENV_PREFIX = "PARHELION_"
"""`PARHELION_API_PORT=3101` sets `port` of `[api]`; the environment wins over the file."""


GUIDE_RECEIVER = "NEXT_PUBLIC_RECEIVER_ADDRESS"
GUIDE_NAMES = {
    GUIDE_RECEIVER: "pay_to",
    "NEXT_PUBLIC_NETWORK": "id",
    "NEXT_PUBLIC_FACILITATOR_URL": "facilitator",
}
"""What the ParallaxPay guide's `.env.local` calls the one network that it is paid on."""

MEMORY_LEAST_BYTES = 1_000_000
"""The smallest models have more; less was meant in another unit."""

_MEMORY = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?([KMGT])(i?)B?", re.IGNORECASE)

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
"""Hosts that only this machine reaches."""


def default_data() -> Path:
    """The platform's user-data folder for us; Problem where this user has no home."""
    from platformdirs import user_data_dir

    hint = "name the data folder: --data DIR, or PARHELION_DATA"
    return at_home(lambda: user_data_dir("parhelion"), hint)


def default_cache() -> Path:
    """The platform's cache folder for us; Problem where this user has no home."""
    from platformdirs import user_cache_dir

    hint = "name a folder for what is built and fetched once: XDG_CACHE_HOME"
    return at_home(lambda: user_cache_dir("parhelion", appauthor=False), hint)


def at_home(find: Callable[[], str], hint: str) -> Path:
    """The folder that `find` names below this user's home; Problem where there is none."""
    try:
        path = find()
    except RuntimeError:  # What pathlib and platformdirs raise; older ones name a folder `~`.
        path = "~"
    if path.startswith("~"):
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            "this user has no home folder: HOME is not set, and the system knows of none",
            hint=f"{hint}; or set HOME",
        )
    return Path(path)


def pool_asset(asset_class: AssetClass) -> str:
    """The asset that keys of a pool spend unless they name another: credits of its class."""
    return "PRLX" if asset_class is AssetClass.MAIN else f"PRLX.{asset_class}"


class ApiConfig(ClosedRecord, frozen=True, kw_only=True):
    """The API port and what a stranger may send to it."""

    host: str = "127.0.0.1"
    port: int = 3001
    tls_cert: str = ""
    """Certificate chain (PEM); with it and `tls_key` the API and the pages are served by https."""
    tls_key: str = ""
    max_body_bytes: int = 4 * 1024 * 1024
    """A prompt of 128k tokens is under 1 MB of text; four times that is still cheap to refuse."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names accepted beside loopback and the bound address (DNS rebinding is refused)."""
    cors_origins: tuple[str, ...] = ()
    public_url: str = ""
    """How clients write this server where a proxy stands before it, like https://pool.example:
    offers and sign-ins name it. Empty: as the request itself says."""
    first_id_wait_s: float = 10.0
    keep_alive_s: float = 10.0
    request_deadline_s: float = 60.0


class WebConfig(ClosedRecord, frozen=True, kw_only=True):
    """The port of the web pages."""

    host: str = "127.0.0.1"
    port: int = 3002


class LimitsConfig(ClosedRecord, frozen=True, kw_only=True):
    """Token buckets per key and per address, and the queue's bounds."""

    requests_per_minute_key: int = 6000
    requests_per_minute_address: int = 12000
    burst: int = 600
    queue_length: int = 1024
    queue_per_account: int = 512
    accounts_per_hour: int = 240
    """Accounts that strangers open, by a recovery code or a passkey: each stays for good, and this
    bounds what they add to the database to some 3 MB a day."""
    accounts_per_hour_address: int = 12
    """A household's and its friends'; one address alone cannot use up what there is for all."""


class NodesConfig(ClosedRecord, frozen=True, kw_only=True):
    """Who may join, and how long silence is tolerated."""

    admit: Literal["auto", "open", "invite", "list"] = "auto"
    """auto: on a loopback bind who comes from this machine itself, else by invite."""
    allowed: tuple[str, ...] = ()
    heartbeat_s: float = 2.0
    suspect_s: float = 4.0
    gone_s: float = 6.0
    probe: bool = True
    """Strangers get no paid work before their ids agree with our own engine's, if we have one."""
    resume_wait_s: float = 10.0
    """How long an answer that has begun and lost its node waits for one that can go on: an engine
    restarts in a second or two, a node in a few; its client sees a pause instead of an error."""


class NodeConfig(ClosedRecord, frozen=True, kw_only=True):
    """The operator's own node, wherever it joins."""

    memory_limit: str = ""
    """What models may take of this machine's memory, like 2GiB or 500MB; empty: what is free."""
    pipeline: bool = False
    """Serve no model whole, only the layers that the pool asks for, as a member of pipelines."""
    direct: Literal["auto", "never"] = "auto"
    """auto: neighbours in a pipeline may connect to this node by TCP, on the loopback or private
    address by which it reaches its coordinator; never: they meet at the coordinator's relay."""

    @property
    def memory_limit_bytes(self) -> int | None:
        """The limit in bytes; None where there is none."""
        return memory_bytes(self.memory_limit) if self.memory_limit else None


class LanConfig(ClosedRecord, frozen=True, kw_only=True):
    """How pools and nodes of one network find each other (mDNS)."""

    announce: Literal["auto", "always", "never"] = "auto"
    """auto: where the API is bound to more than loopback."""
    name: str = ""
    """What the pool is called where it is announced; empty: a name made from its key."""
    interfaces: tuple[str, ...] = ()
    """Addresses of the interfaces to announce and look on; none: all of them."""


class EngineConfig(ClosedRecord, frozen=True, kw_only=True):
    """The engine host; 0 means: decided from the machine."""

    slots: int = 16
    threads: int = 0
    kv_tokens: int = 0
    step_budget_ms: int = 80
    gpu_layers: int = -1


class FallbackConfig(ClosedRecord, frozen=True, kw_only=True):
    """The coordinator's own engine, which serves when no node can; none while `models` is empty."""

    models: tuple[str, ...] = ()
    slots: int = 4


class PipelinesConfig(ClosedRecord, frozen=True, kw_only=True):
    """How pipelines are set up; 0 means: decided from the model."""

    slots: int = 8
    """Streams that a pipeline runs at once: each stage has the KV cache of its layers for all."""
    kv_tokens: int = 0
    wire: Literal["fp32", "bf16"] = "fp32"
    """How hidden states travel: bf16 is half the bytes, and not bit for bit the whole model's; a
    pipeline uses it where all of its nodes speak it, and else fp32."""


class MoneyConfig(ClosedRecord, frozen=True, kw_only=True):
    """The class of money this data folder holds, the shares, and local grants."""

    asset_class: AssetClass = AssetClass.LOCAL
    operators_percent: int = 85
    treasury_percent: int = 10
    infrastructure_percent: int = 5
    first_grant_micro: int = 10_000_000
    prompt_rate_micro: int = 4_000_000
    completion_rate_micro: int = 4_000_000


TIERS_LIMIT = 16
"""Each is a line of every listing, and of every page that sells."""

TIER_NAME = "^[a-z][a-z0-9-]{0,31}$"

TIER_TOKENS_LIMIT = 1_048_576
"""The longest answer that any body may ask for."""

TIER_PRICE_LIMIT_MICRO = 10**15 - 1
"""A thousand million whole tokens: above this someone slipped a digit."""

TEMPERATURE_LIMIT = 2.0
"""As in every request."""

TAKEN = frozenset(
    {"account", "console", "content", "health", "metrics", "ready", "schema", "setup", "v1"}
)
"""First parts of our own paths: a tier of such a name would stand before them."""


class X402Network(ClosedRecord, frozen=True, kw_only=True):
    """One network that we are paid on: `[[x402.networks]]`."""

    id: str
    """CAIP-2, or a name of it: solana-devnet, solana-mainnet-beta, base, base-sepolia."""
    pay_to: str = ""
    facilitator: str = "embedded"
    """Who settles: this process itself, or the URL of a remote one."""
    facilitator_auth_file: str = ""
    """A file of mode 0600 with the Authorization header for a remote facilitator."""
    rpc_url: str = ""
    """Where we read the chain ourselves; empty: the network's own public endpoint."""
    fee_payer_key_file: str = ""
    """The key that pays the network's fees for an embedded facilitator."""
    pay_to_key_file: str = ""
    """The key of `pay_to` itself, which signs withdrawals; without it none is sent from here."""


class X402Config(ClosedRecord, frozen=True, kw_only=True):
    """Payments by x402: where, for what, and the smallest."""

    networks: tuple[X402Network, ...] = ()
    local_chains: Literal["auto", "always", "never"] = "auto"
    """auto: a paid pool of class local that is bound to loopback, and has no networks of its own,
    is paid on two chains of this machine."""
    play_money_on_lan: bool = False
    """Whether a pool that takes play money may be bound to more than loopback: whoever runs this
    machine's chains makes money at will, and nobody else can reach them."""
    prompt_rate_micro: int = 4_000_000
    completion_rate_micro: int = 4_000_000
    """What a new model costs, in base units of USDC for 1,000,000 tokens."""
    tiers: tuple[Tier, ...] = ()
    """None named: basic, standard and premium of `payments.x402.prices`."""
    min_charge_micro: int = 1000
    """A settlement costs its payer's network about as much as $0.001 of tokens does."""
    min_withdrawal_micro: int = 100_000
    """The network's fees, which we pay, are small beside $0.10 and not beside $0.001."""


class LogConfig(ClosedRecord, frozen=True, kw_only=True):
    """Structured logs: one JSON object a line on standard error, or short lines for a person."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class Config(ClosedRecord, frozen=True, kw_only=True):
    """All settings; `data` is the folder that holds every bit of state."""

    data: str = ""
    api: ApiConfig = ApiConfig()
    web: WebConfig = WebConfig()
    limits: LimitsConfig = LimitsConfig()
    nodes: NodesConfig = NodesConfig()
    node: NodeConfig = NodeConfig()
    lan: LanConfig = LanConfig()
    engine: EngineConfig = EngineConfig()
    fallback: FallbackConfig = FallbackConfig()
    pipelines: PipelinesConfig = PipelinesConfig()
    money: MoneyConfig = MoneyConfig()
    x402: X402Config = X402Config()
    log: LogConfig = LogConfig()


def memory_bytes(text: str) -> int:
    """An amount of memory as people write it: 500MB, 2GiB, 1.5 GB; ValueError for anything else.

    Without a unit it would be bytes, which nobody means who writes 500.
    """
    found = _MEMORY.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text[:40]!r} is no amount of memory: write it like 500MB or 2GiB")
    base = 1024 if found[3] else 1000
    amount = Decimal(found[1]) * base ** ("KMGT".index(found[2].upper()) + 1)
    if amount < MEMORY_LEAST_BYTES:
        raise ValueError(f"{text[:40]!r} is less memory than any model takes")
    return int(amount)


def tier_fault(tiers: Sequence[Tier]) -> str | None:
    """What keeps tiers from being sold, as settings, a file or a request name them; pure."""
    if not 1 <= len(tiers) <= TIERS_LIMIT:
        return f"tiers are 1 to {TIERS_LIMIT}"
    if len({tier.name for tier in tiers}) < len(tiers):
        return "two tiers have the same name"
    for tier in tiers:
        name, tokens = tier.name, (tier.max_tokens, tier.max_prompt_tokens)
        if not re.fullmatch(TIER_NAME.strip("^$"), name):
            return f"a tier's name is small letters, digits and -, a letter first: {name[:64]!r}"
        if name in TAKEN:
            return f"{name} is a path of this server: call it otherwise"
        if tier.price_micro < 1:
            return f"{name} costs nothing: a payment is at least 1 base unit"
        if tier.price_micro > TIER_PRICE_LIMIT_MICRO:
            return f"{name} costs more than {TIER_PRICE_LIMIT_MICRO} base units"
        if not all(1 <= count <= TIER_TOKENS_LIMIT for count in tokens):
            return f"{name}: tokens are 1 to {TIER_TOKENS_LIMIT}"
        if tier.temperature is not None and not 0 <= tier.temperature <= TEMPERATURE_LIMIT:
            return f"{name}: a temperature is 0 to {TEMPERATURE_LIMIT:g}"
    return None


def load(
    file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Mapping[str, Any]]
) -> Config:
    """The settings from `file` (TOML), then `environ`, then `overrides` by section (the CLI).

    A None in `overrides` means "not said". Problem CONFIG_INVALID names the key that is wrong.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        tree = _read_toml(file)
        # Each source by itself first, so that an error says where the wrong value stands.
        _checked(tree, f"{file}: ")
    _from_guide(environ, tree)
    for name, section, values in _from_environ(environ):
        _merge(tree, section, values)
        _checked(tree, f"{name}: ")
    for section, values in overrides.items():
        _merge(tree, section, {k: v for k, v in values.items() if v is not None})
    config = _checked(tree, "")
    try:
        _ = config.node.memory_limit_bytes
    except ValueError as error:
        raise _invalid(f"node.memory_limit: {error}") from error
    shares = config.money
    if shares.operators_percent + shares.treasury_percent + shares.infrastructure_percent != 100:
        raise _invalid("the three shares of [money] must add up to 100")
    # None named is no fault here: those of ours are sold then.
    fault = tier_fault(config.x402.tiers) if config.x402.tiers else None
    if fault is not None:
        raise _invalid(f"x402.tiers: {fault}")
    return config


def _checked(tree: dict[str, Any], where: str) -> Config:
    try:
        return msgspec.convert(tree, Config, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(where + _in_words(str(error))) from error


def _in_words(text: str) -> str:
    """msgspec's sentence without its notation: "api.port: expected int, got str"."""
    what, _, path = text.partition(" - at `$")
    what = what.replace("`", "").replace("Expected", "expected", 1)
    what = what.replace("Object contains unknown field", "there is no setting")
    place = path.rstrip("`").removeprefix(".")
    return f"{place}: {what}" if place else what


def _merge(tree: dict[str, Any], section: str, values: Mapping[str, Any]) -> None:
    if section == "":
        tree.update(values)
        return
    tree.setdefault(section, {}).update(values)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise _invalid(f"{file} cannot be read: {why}") from error


def _from_guide(environ: Mapping[str, str], tree: dict[str, Any]) -> None:
    """The guide's names make one network, where a receiver is named and the file has none."""
    if not environ.get(GUIDE_RECEIVER) or tree.get("x402", {}).get("networks"):
        return
    # The guide's own default, so that the receiver alone is enough.
    network = {"id": "solana-devnet"}
    network |= {key: environ[name] for name, key in GUIDE_NAMES.items() if environ.get(name)}
    tree.setdefault("x402", {})["networks"] = [network]
    _checked(tree, f"{', '.join(GUIDE_NAMES)}: ")


def _from_environ(environ: Mapping[str, str]) -> list[tuple[str, str, dict[str, Any]]]:
    """Name of the variable, section, and the one value that it sets there."""
    sections = {field.name: field.type for field in msgspec.structs.fields(Config)}
    found: list[tuple[str, str, dict[str, Any]]] = []
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        words = name.removeprefix(ENV_PREFIX).lower()
        section, _, key = words.partition("_")
        if words == "data":
            found.append((name, "", {"data": value}))
        elif section in sections and section != "data" and key:
            # Lists are given with commas, so that no JSON has to be quoted in a shell.
            is_list = key in {"allowed", "allowed_hosts", "cors_origins", "models", "interfaces"}
            given = value.split(",") if is_list else value
            found.append((name, section, {key: given}))
        else:
            raise _invalid(f"{name} names no setting")
    return found


def _invalid(message: str) -> Problem:
    return Problem(
        ProblemCode.CONFIG_INVALID,
        message,
        hint="docs/configuration.md lists every section and key",
    )
