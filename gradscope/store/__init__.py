"""Files in and out: the schema, the writer, the reader. The only room that knows HDF5."""
