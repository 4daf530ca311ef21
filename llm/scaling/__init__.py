"""Stage scaling: how the held-out loss falls with parameters, tokens and compute, fitted to a sweep of small runs."""
