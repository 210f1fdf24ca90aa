"""Networks, posteriors, flows, priors and likelihoods, and the module that holds them."""
