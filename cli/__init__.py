"""The ``gradscope`` command line: one file a command, each a thin shell over a plain function."""
