"""What gradscope costs: the recorder a step, a penalty, the store, the judge, the start of a trial."""
