"""What an intervention did, and how far that can be believed: distances, paired inference, rows of an estimate."""
