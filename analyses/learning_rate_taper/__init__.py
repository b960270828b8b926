"""The figures of "Adapting Regularization with Learning Rate For Better Generalization in Neural Networks"."""
