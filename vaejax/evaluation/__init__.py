"""What a trained model is worth: exact means, bounds on the evidence, and the latent space."""
