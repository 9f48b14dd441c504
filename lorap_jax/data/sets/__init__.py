"""One file or two for each data set, and for the user's own."""
