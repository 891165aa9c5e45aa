"""What surrounds the flows: settings, clock, logs and metrics, and the composition of it all."""
