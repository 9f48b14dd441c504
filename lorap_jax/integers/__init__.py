"""Integer programs of trained networks, and the engines that run them."""
