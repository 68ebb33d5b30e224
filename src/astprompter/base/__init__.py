"""What every room stands on: errors, records, randomness, JSON, registries, progress, signals, processes."""
