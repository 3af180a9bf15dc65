"""The study: probes the machine, measures every method, and turns the records into the paper."""
