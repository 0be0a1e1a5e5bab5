//! Text sources, tokenisation and token batches.
