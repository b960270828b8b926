"""Achieving Strong Regularization for Deep Neural Networks (Park et al., under review at ICLR 2018)."""
