"""From captioned videos to a trained encoder: shards, stages, the training loop."""
