"""What a run is in either stage: its TOML, its Lightning trainer, its checkpoint."""
