"""Loss of the best constant predictor, estimated from what is seen of the task while it is trained on."""
