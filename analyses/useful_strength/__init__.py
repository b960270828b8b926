"""What `gradscope tune` finds, and at what price, against a dense grid."""
