"""The four ways to pause and resume, a module each, and a process each per layer. Hand-written ones import no Djinn."""
