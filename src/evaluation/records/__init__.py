"""What was measured, on disk: how a run is written, read, checked, probed and published. Computes no statistic."""
