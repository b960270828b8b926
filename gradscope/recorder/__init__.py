"""What happens between a training step and a row: statistics, hooks, the buffer on the device."""
