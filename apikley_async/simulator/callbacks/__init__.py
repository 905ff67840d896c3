"""The simulator's callbacks: what they say and how they are sent."""
