"""The pictures of the paper, one module each, drawn from tables and records. Computes no statistic of its own."""
