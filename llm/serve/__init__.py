"""A trained model in use: answers as text, and a server that speaks OpenAI's API."""
