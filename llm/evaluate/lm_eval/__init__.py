"""lm-eval's tasks for the stage evaluate, asked of our models; optional."""
