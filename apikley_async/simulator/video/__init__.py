"""The simulator's films: frames, encoding, and the queue that renders them."""
