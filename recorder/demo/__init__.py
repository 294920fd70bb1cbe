"""What `recorder demo` brings along: recordings of four sessions, which its upstream replays, and the programs that have them."""
