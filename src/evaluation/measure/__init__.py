"""How one sample is taken: models, programs, clocks, the harness and its jobs. Knows no method and no figure."""
