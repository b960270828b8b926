"""Weight decay where nets are normalised and trained by AdamW: what it does, and what gradscope says of it."""
