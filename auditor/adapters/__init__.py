"""Who drives the recorder: the explicit loop, and how a program is started under it."""
