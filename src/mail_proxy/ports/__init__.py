"""What the flows need from the world, as promises. Each Protocol is kept by one package below the flows."""
