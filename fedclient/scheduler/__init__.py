"""When to train: `policy` decides (pure), `probe` measures."""
