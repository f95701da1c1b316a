"""Files, fingerprints, hubs, and facts of the machine."""
