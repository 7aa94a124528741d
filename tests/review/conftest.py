"""Reviews that end with the test that started them."""

import pytest
from helpers.review_server import Server


@pytest.fixture
def serve():
    servers = []

    def start(*arguments, **variables):
        servers.append(Server(*arguments, **variables))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.returncode is None:
            server.stop()
