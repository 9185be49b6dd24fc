"""model-rollouts: safe ways to bring a new version of an ML model to production."""
