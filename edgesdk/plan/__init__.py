"""What to try on a device: candidates in order, and what was ruled out. Pure: no disk, no engine."""
