"""What the paper consists of, and what draws it."""
