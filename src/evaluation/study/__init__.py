"""What will be measured: the configuration, checked and resolved for one machine. Measures nothing, reads no record."""
