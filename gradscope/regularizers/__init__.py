"""What is added to the loss, how strongly over time, and how it reaches an optimizer."""
