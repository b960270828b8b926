"""The embedded data, a network, a plain training loop, and the demonstration built on them."""
