"""One file per stage: its inputs, its facts in the decorator, and the call into llm."""
