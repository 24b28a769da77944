"""Named changes to memory sources, one file per kind of source."""
