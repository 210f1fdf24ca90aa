"""The data room: what a data set is, where each one comes from, and the order of its batches."""
