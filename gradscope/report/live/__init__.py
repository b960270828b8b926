"""Live view of a run: the same summary as the page, read by following the file; in the terminal or served."""
