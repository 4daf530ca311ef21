"""One file per stage, and the machinery under them: store, fingerprints, builds, tracking."""
