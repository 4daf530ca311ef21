"""Near duplicates: n-grams, signatures, candidates, and the steps of the dedup stage."""
