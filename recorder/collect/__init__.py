"""Capture: what comes in, by the proxy, the hook or from files, and the one thread that appends it."""
