"""What gradscope knows of optimizers: which one steps, when a step begins, its groups, its decay."""
