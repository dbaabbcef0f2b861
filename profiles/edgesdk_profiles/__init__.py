"""Built-in device profiles, one TOML file a device."""
