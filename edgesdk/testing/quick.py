"""Settings for tests that measure on the way to something else."""

from __future__ import annotations

from edgesdk.measure.settings import Settings

QUICK = Settings(
    window_s=0.02,
    min_rounds=5,
    max_rounds=5,
    warmup_seconds=0.1,
    processes=1,
    settled=1e9,
    noisy_interval=1e9,
    noisy_spread=1e9,
    hopeless=0.0,
)
"""Every step of a measurement, as briefly as can be; the times mean little and always count as steady."""
