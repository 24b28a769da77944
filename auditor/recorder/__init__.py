"""What is watched while training runs: steps, passes, random streams, data order, environment; and a cell's work."""
