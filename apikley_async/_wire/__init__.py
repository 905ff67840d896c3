"""Every JSON spelling of the service: requests, envelopes, records, links. Pure."""
