"""What can go wrong between a request and its response, and when it does."""
