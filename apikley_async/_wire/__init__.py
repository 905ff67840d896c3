"""The service's JSON, and the only place that spells it: requests out, answers in. Pure."""
