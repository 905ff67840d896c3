"""The commands of `apikley`, one module for each group of them."""
