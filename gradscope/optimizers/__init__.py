"""What gradscope has to know of optimizers: which one steps, when a step begins, its groups, its decay."""
