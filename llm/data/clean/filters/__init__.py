"""Quality filters of the stage clean (Gopher, C4, FineWeb): each says which of a paper's rules a text breaks."""
