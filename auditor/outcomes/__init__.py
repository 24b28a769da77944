"""What is measured on probes, without consuming a stream or changing a mode."""
