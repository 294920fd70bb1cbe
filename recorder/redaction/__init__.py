"""Making unreadable what is not to be stored: pure, applied to a stream on its way to the log."""
