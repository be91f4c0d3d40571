"""Fine-tuning: arguments, data, batches, loss, training loop, resumable state, memory estimate, saved model."""
