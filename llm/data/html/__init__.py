"""From the bytes of a page to blocks of text, for crawl, clean, instruct: charset, markup, the main content."""
