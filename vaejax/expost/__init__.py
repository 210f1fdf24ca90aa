"""Densities fitted to the codes of a trained model: priors that come after training."""
