"""What a person triggers: recipes, the DAG, the command line, flows for the UI. It composes; the work is below."""
