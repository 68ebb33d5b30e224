"""The files of a run and of an experiment: each described once, by the models that write, read and document it."""
