"""From the bytes of a page to blocks of text: charset, parse, and which blocks are the main content."""
