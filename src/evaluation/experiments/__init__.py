"""What is measured once per run or method: memory wall, edits, load, overhead, sizes of the prompt. Draws nothing."""
