"""Stage evaluate, and the gate between models: log-likelihoods, benchmarks, scores with intervals."""
