"""One node for a whole module of tests; tests use wallets of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.chain.minievm.processes import ANVIL, Evm, anvil, minievm


@pytest.fixture(scope="module", params=["minievm", pytest.param("anvil", marks=pytest.mark.slow)])
def evm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evm]:
    """Our node; under `make test-all` anvil too, which must answer the same questions."""
    if request.param == "anvil":
        if not ANVIL.exists():
            pytest.skip("anvil is not installed: make test-all does it on Linux x64 with npm")
        with anvil() as node:
            yield node
        return
    with minievm(tmp_path_factory.mktemp("minievm")) as node:
        yield node
