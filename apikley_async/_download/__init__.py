"""Films on their way to the disk: whole files under their names, or none."""
