"""The demonstration, with its data, network and plain training loop."""
