from __future__ import annotations

import signal

# What starts the tests may ignore Ctrl-C, as a shell does for what runs behind it, and every process they start would.
signal.signal(signal.SIGINT, signal.default_int_handler)
