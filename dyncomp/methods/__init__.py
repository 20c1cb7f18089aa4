"""One file per method. The folder is the list: a file that registers a method is found, nothing else is edited."""
