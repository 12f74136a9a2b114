"""One node for a whole module of tests; tests use wallets of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.chain.minievm.processes import KINDS, Evm, anvil, minievm


@pytest.fixture(scope="module", params=KINDS)
def evm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evm]:
    """Our node; under `make test-all` anvil too, which must answer the same questions."""
    if request.param == "anvil":
        with anvil() as node:
            yield node
        return
    with minievm(tmp_path_factory.mktemp("minievm")) as node:
        yield node
