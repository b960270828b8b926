"""What the recorder's kernels cost on the host, side by side with other ways."""
