"""Interactive page: rows → windows → `RunPage` → one HTML file, or the same page live."""
