"""What a command prints: events, sentences, progress bars, and commands to type."""
