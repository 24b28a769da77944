"""The ground floor: files, digests and formats. NumPy at most, never torch."""
