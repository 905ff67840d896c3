"""Downloads of films: links, range requests, part files, and the saver that joins them."""
