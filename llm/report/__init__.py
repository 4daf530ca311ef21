"""Stage report: figures, and one page over all stages."""
