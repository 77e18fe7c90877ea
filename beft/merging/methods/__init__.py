"""The merge methods, each a function in the file of its name: a file that is dropped in is known everywhere."""
