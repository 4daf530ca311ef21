"""Stage crawl: Scrapy as a fetch engine around our own durable frontier, robots rules and egress guard."""
