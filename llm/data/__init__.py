"""From web pages to token shards: a folder for each stage, and below them html, user_files, common."""
