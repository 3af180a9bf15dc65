"""Which claims the records support, refute or leave undecided, and what the memo expected. Draws nothing."""
