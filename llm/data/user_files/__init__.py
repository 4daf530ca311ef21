"""Records that users bring to any stage: chats, pairs, questions, labelled texts, benchmark items."""
