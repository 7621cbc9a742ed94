"""What tests of the real things share: one dockerd for all of them."""

from tests.integration.docker_fixture import docker_daemon

__all__ = ["docker_daemon"]
