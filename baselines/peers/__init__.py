"""What runs beside ours from the package index."""
