"""The machinery under all stages: keys, store, sessions, builds, engine, tracking, registry."""
