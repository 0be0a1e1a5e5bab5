//! The activation stream: from token batches through the model to shuffled batches of activations.
