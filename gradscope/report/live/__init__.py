"""A run while it goes on: the same summary as the page, read by following the file; in the terminal or served."""
