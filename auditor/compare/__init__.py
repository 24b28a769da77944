"""Where two runs part: the first step and memory source at which their traces differ."""
