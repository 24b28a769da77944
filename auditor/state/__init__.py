"""What training remembers: one file per kind of memory source, its census, capture and restore. Knows torch."""
