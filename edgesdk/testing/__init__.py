"""Conformance suites that the author of a backend, a device or a profile package inherits.

A suite is a class of pytest tests with one fixture to fill in:

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def backend(self):
            return MyBackend()
"""

import pytest

# Before the import, so that a failed assertion shows its values in the author's own test run.
pytest.register_assert_rewrite(
    *(f"edgesdk.testing.{module}" for module in ("backend", "checks", "device", "profile"))
)

from edgesdk.testing.backend import BackendConformance  # noqa: E402
from edgesdk.testing.device import DeviceConformance  # noqa: E402
from edgesdk.testing.profile import ProfileConformance  # noqa: E402

__all__ = ["BackendConformance", "DeviceConformance", "ProfileConformance"]
