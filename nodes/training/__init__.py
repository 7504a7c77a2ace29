"""Training: what a worker computes, and the loop that exchanges it with the cluster."""
