"""Programs for people who work on edgesdk; not part of what is installed."""
