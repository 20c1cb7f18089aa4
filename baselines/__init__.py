"""What a dynamic method has to beat: the papers' figures, static nets of several sizes, and other packages."""
