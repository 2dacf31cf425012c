"""Which tokens a request's constraint leaves."""
