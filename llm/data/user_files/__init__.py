"""Records that users bring: chats, pairs, questions, labelled texts, benchmark items."""
