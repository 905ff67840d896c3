"""The simulator's films: drawing, encoding, renderers, and the queue that renders them."""
