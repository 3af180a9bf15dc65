"""Where state lies and how it moves: the host arena, the copies, and what leaves first when memory is short."""
