"""Virtual time, which lives in the package now so that users have it too."""

from apikley_async.virtual import Deadlock, VirtualLoop

__all__ = ["Deadlock", "VirtualLoop"]
