"""Fine-tuning of one condition: loss, batches, the DeepSpeed loop. Knows nothing of Ray."""
