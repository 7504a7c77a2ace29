"""The learner: models, data and training on a parameter server."""
