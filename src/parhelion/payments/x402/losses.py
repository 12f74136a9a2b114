"""What payments that were sent and failed cost us: the network takes its fee for those as well."""

from __future__ import annotations

from parhelion.words import Record


class Loss(Record, frozen=True, kw_only=True):
    """Payments of one network that failed on the chain, and their fees in lamports or wei."""

    network: str
    payments: int
    fees: int


class Losses:
    """Counted since the start of this process."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, int]] = {}

    def add(self, network: str, fee: int) -> None:
        """One more, for so much."""
        payments, fees = self._found.get(network, (0, 0))
        self._found[network] = (payments + 1, fees + fee)

    def read(self) -> tuple[Loss, ...]:
        """All of them, by network."""
        return tuple(
            Loss(network=network, payments=payments, fees=fees)
            for network, (payments, fees) in sorted(self._found.items())
        )
