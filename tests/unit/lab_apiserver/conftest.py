"""Fixtures: one server, one administrator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.apiserver.server import Running
from lab.apiserver.testing import own_server
from tests.unit.lab_apiserver.helpers import Client, client_of


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with own_server(tmp_path / "state") as running:
        yield running


@pytest.fixture
async def admin(server: Running) -> AsyncIterator[Client]:
    async with client_of(server) as client:
        yield client
