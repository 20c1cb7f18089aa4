"""The families of static networks that methods start from: one file, one family."""
