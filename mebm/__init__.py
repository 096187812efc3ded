"""mebm: energy-based image models with an informative start (M-EBM, M-JEM)."""
