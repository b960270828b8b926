"""The loss of the best constant predictor: what can be seen of the task while it is trained on."""
