"""What all unit tests share: nothing of the developer's environment, and examples bounded so that all takes seconds."""

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("unit", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the developer's shell has set, a test sees none of it."""
    for name in [name for name in os.environ if name.startswith("MULTIHOST_")]:
        monkeypatch.delenv(name)
