"""The places where artifacts run."""
