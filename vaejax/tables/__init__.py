"""Tables of methods, priors and data sets: trained, evaluated and written by one command."""
