"""Estimators, cost functions, and the recipes that compose them into players."""
