"""What the command line prints: events, sentences, progress bars."""
