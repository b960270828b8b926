"""The Shapes of Regularization (SortaSota, 2021): norms as penalties on perceptrons without biases."""
