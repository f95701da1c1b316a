"""How a run goes: configuration, run folder, training loop, checkpoints."""
