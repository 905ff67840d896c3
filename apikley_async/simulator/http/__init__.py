"""The simulator's HTTP side: applications, fault delivery, file host."""
