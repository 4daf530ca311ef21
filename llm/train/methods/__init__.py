"""The training methods: each a module with a function of its stage's name."""
