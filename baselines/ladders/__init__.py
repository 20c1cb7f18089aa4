"""Accuracy over multiply-adds of static nets, one CSV for each data set, backbone and budget."""
