"""A trained model in use: answers, labels, and a server that speaks OpenAI's API."""
